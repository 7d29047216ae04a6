"""All fields of a config, with their defaults: a small CNN on two handwritten digits.

    ntk-train --config=default --workdir=runs/default
    ntk-train --config=default:fcn --workdir=runs/fcn \
        --config.model.kwargs.widths="(256, 256)" --config.optimizer.learning_rate=1e-3

The text after the colon names the model. Every field can be set on the command line as above.

Hardware and run time: 2 CPU cores, 20 seconds, start-up and compilation included.
Number to expect: 100 % test accuracy (108 images), condition number about 8e3 at the end (seed 0).
"""

from ml_collections import ConfigDict

from ntk_train.models import model_defaults


def get_config(arg: str | None = None) -> ConfigDict:
    """The default config, locked.

    Args:
      arg: the model, a key of `ntk_train.models.MODELS`; by default "cnn".
    """
    config = ConfigDict()

    config.seed = 0  # of the parameters, the order of the training images, dropout
    config.num_train_steps = 1000
    config.batch_size = 64
    config.label_smoothing = 0.0  # of the training loss: part of a label spread over all classes
    config.eval_batch_size = 256  # changes the speed of an evaluation, never its result

    config.model = ConfigDict()
    config.model.name = arg or "cnn"
    # All attributes of the model's class but num_outputs, which the data set decides.
    config.model.kwargs = ConfigDict(model_defaults(config.model.name))

    config.dataset = ConfigDict()
    config.dataset.name = "digits"
    config.dataset.kwargs = ConfigDict()  # the arguments of its function in ntk_train/data
    config.dataset.kwargs.classes = (4, 9)  # labels 0 and 1; None, or (0, 1, ..., 9), for all ten
    config.dataset.kwargs.test_fraction = 0.3
    config.dataset.kwargs.seed = 0  # of the split into training and test images

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or "sgd"
    config.optimizer.learning_rate = 3e-3  # the highest, after the warm-up
    config.optimizer.schedule = "cosine"  # to zero at the last step, "step" or "constant"
    config.optimizer.step_fractions = (0.5, 0.75)  # of the run, where "step" lowers the rate
    config.optimizer.step_factor = 0.1  # by so much
    config.optimizer.warmup_steps = 0
    config.optimizer.weight_decay = 1e-4  # of parameters with two and more axes
    config.optimizer.momentum = 0.9  # of "sgd"
    config.optimizer.nesterov = False  # of "sgd"
    config.optimizer.clip_norm = 0.0  # of the whole gradient; 0 leaves it as it is

    config.ntk = ConfigDict()  # the kernel as a metric; see ntk_train.NTKHook
    config.ntk.enabled = True
    # Whose kernels are logged: "train" images as ntk/..., "test" images as ntk_test/..., and
    # "per_class", the training images of each class, as ntk_class_0/... and so on. The first is
    # in the table on the screen.
    config.ntk.probes = ("train",)
    config.ntk.probe_size = 64  # images in a kernel, balanced over the classes
    config.ntk.probe_seed = 0  # of the choice of these images
    config.ntk.every_steps = 100  # and at step 0 and the last
    # [N, N], summed over outputs; or "sum"; or "full" [N, O, N, O], with which the critical
    # learning rates are logged too.
    config.ntk.outputs = "trace"
    # Eigenvectors in the top space, whose rotation and share of the labels are logged; 0 for as
    # many as outputs of a "full" kernel, and 1 for others.
    config.ntk.top_k = 0
    config.ntk.per_layer = False  # share, lambda_max and alignment of each layer, as ntk_layers/...
    config.ntk.implementation = "auto"  # or "jacobian_contraction", "ntk_vector_products"
    config.ntk.batched = True  # the outputs of an example depend on that example alone
    config.ntk.precision = "float32"  # of the matrix products in the kernel
    config.ntk.check = True  # now and then against plain derivatives, by a few backward passes
    config.ntk.max_overhead = 0.0  # of the run's time, 0.01 for one per cent; 0 for no limit
    # Ends the run, with a checkpoint, at the first kernel above; 0 for no limit. For searches.
    # A run that was ended goes on only when this is raised or set to 0.
    config.ntk.stop_above_condition_number = 0.0

    # Each of these happens at multiples of its number, and at the last step.
    config.log_every_steps = 20  # train_loss, train_accuracy, learning_rate
    config.eval_every_steps = 100  # eval_loss, eval_accuracy on all test images
    config.checkpoint_every_steps = 500
    config.keep_checkpoints = 3  # the latest ones
    config.report_every_secs = 10.0  # steps_per_sec, uptime

    return config.lock()
