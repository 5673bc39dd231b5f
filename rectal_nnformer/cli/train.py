"""Run nnUNetv2_train with our trainers within reach; every argument goes to it as it stands."""

from rectal_nnformer.cli.pass_through import pass_through_to

HELP = "nnUNetv2_train with our trainers"

add_arguments, run = pass_through_to("nnUNetv2_train", "DATASET CONFIGURATION FOLD -tr TRAINER -p PLANS")
