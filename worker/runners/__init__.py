"""What computes a step: transformers itself here, C in `native`, captured kernels in `cuda`.

A runner must not know sequences, sampling or gateways: tokens and rows go in, logits come out.
"""
