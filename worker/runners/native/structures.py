"""What the C functions take: the structures of model.h, linear.h and attention.h, field by field."""

import ctypes
from ctypes import POINTER, c_float, c_int64, c_void_p
from enum import IntEnum


class Linear(ctypes.Structure):
    """`linear`: weights in 4-bit blocks, or dense."""

    _fields_ = (
        ("codes", c_void_p),
        ("scales", c_void_p),
        ("table", c_void_p),
        ("dense", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("block", c_int64),
        ("arithmetic", c_int64),
        ("steps", c_void_p),
        ("step", c_float),
    )


class NormKind(IntEnum):
    """`norm_kind`: how a norm multiplies and rounds."""

    ROUNDED_FIRST = 0
    ROUNDED_LAST = 1
    PLUS_ONE = 2
    CENTERED = 3


class HeadNorms(IntEnum):
    """`head_norms`: what the norms of queries and keys are over, and whose weights they have."""

    ALIKE = 0
    TOGETHER = 1
    OWN = 2


class GateKind(IntEnum):
    """`gate_kind`: the activation of a network."""

    SILU = 0
    GELU_TANH = 1
    GELU = 2
    RELU = 3


class Norm(ctypes.Structure):
    """`norm`: its weights, and biases if it has any."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p))


class Experts(ctypes.Structure):
    """`experts`: networks of which each token goes through a few."""

    _fields_ = (
        ("router", Linear),
        ("gate", Linear),
        ("up", Linear),
        ("down", Linear),
        ("gate_stride", c_int64),
        ("down_stride", c_int64),
        ("chosen", c_int64),
        ("is_divided", c_int64),
        ("shared_gate", Linear),
    )


class Layer(ctypes.Structure):
    """`layer`: one decoder layer."""

    _fields_ = (
        ("input_norm", Norm),
        ("network_norm", Norm),
        ("attended_norm", Norm),
        ("fed_norm", Norm),
        ("query_norm", Norm),
        ("key_norm", Norm),
        ("query", Linear),
        ("key", Linear),
        ("value", Linear),
        ("output", Linear),
        ("gate", Linear),
        ("up", Linear),
        ("down", Linear),
        ("experts", Experts),
        ("window", c_int64),
        ("rotation", c_int64),
    )


class Model(ctypes.Structure):
    """`model`: all layers, and the head."""

    _fields_ = (
        ("layers", POINTER(Layer)),
        ("final_norm", Norm),
        ("head", Linear),
        ("layer_count", c_int64),
        ("width", c_int64),
        ("inner", c_int64),
        ("heads", c_int64),
        ("key_heads", c_int64),
        ("head_dim", c_int64),
        ("norm_kind", c_int64),
        ("head_norms", c_int64),
        ("gate_kind", c_int64),
        ("rotary_dim", c_int64),
        ("is_interleaved", c_int64),
        ("is_parallel", c_int64),
        ("epsilon", c_float),
        ("scaling", c_float),
        ("score_cap", c_float),
        ("logit_cap", c_float),
    )


class Slab(ctypes.Structure):
    """`slab`: where keys and values are."""

    _fields_ = (
        ("keys", POINTER(c_void_p)),
        ("values", POINTER(c_void_p)),
        ("row_stride", c_int64),
        ("head_stride", c_int64),
    )


class Tokens(ctypes.Structure):
    """`tokens`: what one pass is to read."""

    _fields_ = (
        ("count", c_int64),
        ("places", c_void_p),
        ("hidden", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("slabs", POINTER(Slab)),
        ("asked_count", c_int64),
        ("asked", c_void_p),
        ("logits", c_void_p),
    )
