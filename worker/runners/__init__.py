"""What computes a step: transformers itself here, C in `native`, captured kernels in `cuda`.

A runner must not know sequences, gateways or sampling: tokens and rows go in, logits come out.
"""
