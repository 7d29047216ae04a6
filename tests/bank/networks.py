"""Whole networks in Flax Linen, of a few channels on a few pixels or tokens."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ntk_train import models
from tests.bank.case import Case, M, N, case_in, linen

NETWORKS: list[Case] = []
case = case_in(NETWORKS)
IMAGE = (4, 4, 2)
SEQUENCE = (3, 4)
VOCABULARY = 7


def tokens(length):
    """Two batches of random tokens."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY, size=(N + M, length))
    return [jnp.asarray(ids[:N]), jnp.asarray(ids[N:])]


@case()
def fcn(dtype, normal):
    model = models.create_model("fcn", num_outputs=2, widths=(6, 5), activation="gelu")
    return linen(model, (2, 3), dtype, normal, train=False)


@case()
def fcn_in_ntk_parameterization(dtype, normal):
    ntk = {"parameterization": "ntk", "sigma_w": 1.5, "sigma_b": 0.3, "remat": True}
    model = models.create_model("fcn", num_outputs=2, widths=5, activation="tanh", **ntk)
    return linen(model, (2, 3), dtype, normal, train=False)


@case()
def cnn(dtype, normal):
    model = models.create_model("cnn", num_outputs=2, features=(3, 4), pooling="avg")
    return linen(model, IMAGE, dtype, normal, train=False)


@case()
def cnn_in_ntk_parameterization(dtype, normal):
    ntk = {"parameterization": "ntk", "sigma_w": 1.5, "sigma_b": 0.3}
    shape = {"features": (3, 2), "pooling": "max", "head": "flatten"}
    model = models.create_model("cnn", num_outputs=2, **shape, **ntk)
    return linen(model, IMAGE, dtype, normal, train=False)


# Residual networks.


def resnet(name, stages):
    return models.create_model(name, num_outputs=2, stages=stages, features=2, stem="cifar")


@case()
def resnet_in_eval_mode(dtype, normal):
    return linen(resnet("resnet-18", (1, 1)), IMAGE, dtype, normal, train=False)


@case()
def bottleneck_resnet_in_eval_mode(dtype, normal):
    return linen(resnet("resnet-50", (1,)), IMAGE, dtype, normal, train=False)


@case(batched=False)
def resnet_in_train_mode(dtype, normal):
    return linen(
        resnet("resnet-18", (1, 1)), IMAGE, dtype, normal, train=True, mutable=["batch_stats"]
    )


@case(batched=False)
def bottleneck_resnet_in_train_mode(dtype, normal):
    model = resnet("resnet-50", (1,))
    return linen(model, IMAGE, dtype, normal, train=True, mutable=["batch_stats"])


@case()
def wide_resnet(dtype, normal):
    small = {"depth": 10, "widen_factor": 1, "features": 2}
    model = models.create_model("wrn-28-10", num_outputs=2, **small)
    return linen(model, IMAGE, dtype, normal, train=False)


class WeightStandardizedConv(nn.Module):
    """S. Qiao et al., *Micro-Batch Training with ... Weight Standardization*, 2019."""

    @nn.compact
    def __call__(self, x):
        shape = (3, 3, x.shape[-1], 4)
        w = self.param("kernel", nn.initializers.lecun_normal(), shape, x.dtype)
        w = (w - w.mean(axis=(0, 1, 2))) / (w.std(axis=(0, 1, 2)) + 1e-2)
        x = jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return nn.relu(nn.GroupNorm(num_groups=2)(x))


@case()
def weight_standardized_convolution_with_group_norm(dtype, normal):
    model = nn.Sequential([WeightStandardizedConv(), lambda x: x.mean(axis=(1, 2)), nn.Dense(2)])
    return linen(model, IMAGE, dtype, normal)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection."""

    @nn.compact
    def __call__(self, x):
        h = nn.silu(nn.Conv(4, (1, 1))(x))
        h = nn.silu(nn.Conv(4, (3, 3), feature_group_count=4)(h))
        squeezed = nn.silu(nn.Dense(2)(h.mean(axis=(1, 2))))
        h *= nn.sigmoid(nn.Dense(4)(squeezed))[:, None, None]
        x += nn.Conv(x.shape[-1], (1, 1))(h)
        return nn.Dense(2)(x.mean(axis=(1, 2)))


@case()
def squeeze_and_excitation_with_separable_convolutions(dtype, normal):
    return linen(InvertedResidual(), IMAGE, dtype, normal)


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        skip = nn.gelu(nn.Conv(2, (3, 3))(x))
        h = nn.max_pool(skip, (2, 2), (2, 2))
        h = nn.gelu(nn.Conv(3, (3, 3))(h))
        h = nn.ConvTranspose(2, (2, 2), (2, 2))(h)
        h = jnp.concatenate([skip, h], axis=-1)
        return nn.Conv(1, (1, 1))(h)[:, ::2, ::2]


@case()
def u_net(dtype, normal):
    return linen(UNet(), IMAGE, dtype, normal)


# Attention and mixing of tokens.


class Transformer(nn.Module):
    """One pre-norm block."""

    @nn.compact
    def __call__(self, x, mask=None):
        h = nn.LayerNorm()(x)
        x += nn.MultiHeadDotProductAttention(num_heads=2)(h, mask=mask)
        h = nn.Dense(6)(nn.LayerNorm()(x))
        return x + nn.Dense(x.shape[-1])(nn.gelu(h))


@case()
def vision_transformer(dtype, normal):
    small = {"patch_size": 2, "width": 4, "depth": 1, "num_heads": 2, "mlp_ratio": 2}
    model = models.create_model("vit-s/16", num_outputs=2, **small)
    return linen(model, IMAGE, dtype, normal, train=False)


class Decoder(nn.Module):
    """A causal language model; its head is the transposed embedding."""

    @nn.compact
    def __call__(self, ids):
        embed = nn.Embed(VOCABULARY, 4)
        positions = self.param("positions", nn.initializers.normal(), (ids.shape[1], 4))
        x = embed(ids) + positions
        x = nn.LayerNorm()(Transformer()(x, nn.make_causal_mask(ids)))
        return embed.attend(x)[:, -1]


@case()
def causal_transformer_with_tied_head(dtype, normal):
    return linen(Decoder(), tokens(3), dtype, normal)


@case()
def mlp_mixer(dtype, normal):
    small = {"patch_size": 2, "width": 4, "depth": 1, "tokens_dim": 3, "channels_dim": 5}
    model = models.create_model("mixer-b/16", num_outputs=2, **small)
    return linen(model, IMAGE, dtype, normal, train=False)


# Recurrence.


class Recurrent(nn.Module):
    cell: type[nn.RNNCellBase]

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.RNN(self.cell(3, param_dtype=x.dtype))(x)[:, -1])


@case()
def lstm_cell(dtype, normal):
    return linen(Recurrent(nn.LSTMCell), SEQUENCE, dtype, normal)


@case()
def optimized_lstm_cell(dtype, normal):
    return linen(Recurrent(nn.OptimizedLSTMCell), SEQUENCE, dtype, normal)


@case()
def gru_cell(dtype, normal):
    return linen(Recurrent(nn.GRUCell), SEQUENCE, dtype, normal)


# Flax's transformations of modules.


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + jnp.tanh(nn.Dense(x.shape[-1])(x)), None


class Stack(nn.Module):
    """Layers as one scan, each with parameters of its own."""

    rematerialize: bool

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Residual, prevent_cse=False) if self.rematerialize else Residual
        scan = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(2)(scan()(x, None)[0])


@case()
def scanned_layers(dtype, normal):
    return linen(Stack(False), (4,), dtype, normal)


@case()
def scanned_layers_with_remat(dtype, normal):
    return linen(Stack(True), (4,), dtype, normal)


class Ensemble(nn.Module):
    """Three dense layers side by side, then one for the features of all."""

    @nn.compact
    def __call__(self, x):
        dense = nn.vmap(
            nn.Dense,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=1,
            axis_size=3,
        )
        return nn.remat(nn.Dense)(2)(jnp.tanh(dense(4)(x)).mean(axis=1))


@case()
def ensemble_of_dense_layers(dtype, normal):
    return linen(Ensemble(), (4,), dtype, normal)


class Siamese(nn.Module):
    """One submodule, called on both halves of an input and on what comes of it."""

    @nn.compact
    def __call__(self, x):
        encode = nn.Sequential([nn.Dense(3), nn.tanh])
        left, right = encode(x[:, :3]), encode(x[:, 3:])
        return nn.Dense(2)(jnp.abs(left - right) + encode(left * right))


@case()
def submodule_called_several_times(dtype, normal):
    return linen(Siamese(), (6,), dtype, normal)
