import torch

from bench.kernel import Matrix, fuse


def matrix(name: str, outputs: int, inputs: int, value: int) -> Matrix:
    packed = torch.full((outputs, inputs // 2), value, dtype=torch.uint8)
    absmax = torch.full((inputs // 64, outputs), float(value), dtype=torch.bfloat16)
    return Matrix(name, packed, absmax, blocksize=64, quant_type="nf4")


def test_layers_that_read_the_same_input_become_one_with_outputs_in_their_order() -> None:
    parts = [
        matrix("0.attn.q_proj", 64, 128, 1),
        matrix("0.attn.k_proj", 32, 128, 2),
        matrix("0.attn.v_proj", 32, 128, 3),
    ]
    (fused,) = fuse(parts)
    assert (fused.name, fused.outputs, fused.inputs) == ("0.attn.qkv", 128, 128)
    assert fused.packed[:, 0].tolist() == [1] * 64 + [2] * 32 + [3] * 32
    assert fused.absmax.shape == (2, 128)
    assert fused.absmax[0].tolist() == [1.0] * 64 + [2.0] * 32 + [3.0] * 32


def test_layers_of_different_blocks_and_without_partners_stay_apart() -> None:
    names = ["0.mlp.gate_proj", "0.mlp.up_proj", "0.mlp.down_proj", "1.mlp.gate_proj", "1.mlp.up_proj"]
    fused = fuse([matrix(name, 32, 64, 1) for name in names])
    assert [each.name for each in fused] == ["0.mlp.gate_up", "0.mlp.down_proj", "1.mlp.gate_up"]
    assert [each.shape for each in fused] == ["gate_up 64x64", "down_proj 32x64", "gate_up 64x64"]
