"""The builder of MiniImageNet for tensorflow-datasets, in the folder that TFDS asks for.

    mini_imagenet_dataset_builder.py   the builder
    split_files.py                     the CSV files of Ravi and Larochelle
    synsets.json                       the classes of each part

`ntk_train.data.load_mini_imagenet` reads what it has prepared.
"""
