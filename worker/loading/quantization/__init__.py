"""4-bit and 8-bit weights: bitsandbytes, which layers it takes, and how they are made and told apart.

It must not know checkpoints: whether weights come quantized or become so here is for `loading` to see.
"""
