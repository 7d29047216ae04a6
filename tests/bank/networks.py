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
def cnn(dtype, normal):
    model = models.create_model("cnn", num_outputs=2, features=(3, 4), pooling="avg")
    return linen(model, IMAGE, dtype, normal, train=False)


# Residual networks.


class ResidualBlock(nn.Module):
    """Post-activation: two 3 x 3 convolutions, or a bottleneck of 1 x 1, 3 x 3 and 1 x 1."""

    features: int
    strides: tuple[int, int] = (1, 1)
    bottleneck: bool = False

    @nn.compact
    def __call__(self, x, train):
        norm = lambda x: nn.BatchNorm(use_running_average=not train)(x)
        widths = [self.features, self.features]
        kernels = [(3, 3), (3, 3)]
        if self.bottleneck:
            widths, kernels = [self.features // 2, *widths], [(1, 1), (3, 3), (1, 1)]
        h = x
        for i, (width, kernel) in enumerate(zip(widths, kernels)):
            strides = self.strides if i == len(widths) - 2 else (1, 1)
            h = norm(nn.Conv(width, kernel, strides, use_bias=False)(h))
            h = nn.relu(h) if i < len(widths) - 1 else h
        if h.shape != x.shape:
            x = norm(nn.Conv(self.features, (1, 1), self.strides, use_bias=False)(x))
        return nn.relu(x + h)


class ResNet(nn.Module):
    bottleneck: bool

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (3, 3), (1, 1), "SAME")
        x = ResidualBlock(4, (2, 2), self.bottleneck)(x, train)
        return nn.Dense(2)(x.mean(axis=(1, 2)))


@case()
def resnet_in_eval_mode(dtype, normal):
    return linen(ResNet(False), IMAGE, dtype, normal, train=False)


@case()
def bottleneck_resnet_in_eval_mode(dtype, normal):
    return linen(ResNet(True), IMAGE, dtype, normal, train=False)


@case(batched=False)
def resnet_in_train_mode(dtype, normal):
    return linen(ResNet(False), IMAGE, dtype, normal, train=True, mutable=["batch_stats"])


@case(batched=False)
def bottleneck_resnet_in_train_mode(dtype, normal):
    return linen(ResNet(True), IMAGE, dtype, normal, train=True, mutable=["batch_stats"])


class WideResNet(nn.Module):
    """Pre-activation, after S. Zagoruyko, N. Komodakis, *Wide Residual Networks*, BMVC 2016."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(2, (3, 3))(x)
        norm = lambda x: nn.relu(nn.BatchNorm(use_running_average=True)(x))
        h = norm(x)
        shortcut = nn.Conv(6, (1, 1), use_bias=False)(h)
        h = norm(nn.Conv(6, (3, 3), use_bias=False)(h))
        x = shortcut + nn.Conv(6, (3, 3), use_bias=False)(h)
        return nn.Dense(2)(norm(x).mean(axis=(1, 2)))


@case()
def wide_resnet_block(dtype, normal):
    return linen(WideResNet(), IMAGE, dtype, normal)


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


class VisionTransformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (2, 2), (2, 2), "VALID")(x)
        x = x.reshape(len(x), -1, 4)
        token = self.param("class_token", nn.initializers.normal(), (1, 1, 4))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)
        x += self.param("positions", nn.initializers.normal(), (1, *x.shape[1:]))
        return nn.Dense(2)(nn.LayerNorm()(Transformer()(x))[:, 0])


@case()
def vision_transformer(dtype, normal):
    return linen(VisionTransformer(), IMAGE, dtype, normal)


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


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        mlp = lambda h: nn.Dense(h.shape[-1])(nn.gelu(nn.Dense(5)(h)))
        x += mlp(nn.LayerNorm()(x).swapaxes(1, 2)).swapaxes(1, 2)
        x += mlp(nn.LayerNorm()(x))
        return nn.Dense(2)(x.mean(axis=1))


@case()
def mlp_mixer(dtype, normal):
    return linen(Mixer(), SEQUENCE, dtype, normal)


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
