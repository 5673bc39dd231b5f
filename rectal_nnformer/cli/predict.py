"""Run nnUNetv2_predict with our trainers within reach; every argument goes to it as it stands."""

from rectal_nnformer.cli.pass_through import pass_through_to

HELP = "nnUNetv2_predict with our trainers"

add_arguments, run = pass_through_to(
    "nnUNetv2_predict", "-i DIR -o DIR -d DATASET -c CONFIGURATION -tr TRAINER -p PLANS -f FOLD [FOLD ...]"
)
