"""`op4ksr unpack`: a WebDataset or a Hugging Face dataset as files that the other commands read."""

import argparse

from ..files import at_home
from ..train.unpack import dataset_items, is_webdataset, unpack, webdataset_items
from .console import say


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", help="tars (`shards-{000..010}.tar`), or the name or folder of a Hugging Face dataset"
    )
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where pictures and captions go")
    parser.add_argument("--caption", metavar="NAME", help="column with the caption; in tars the member (default txt)")
    parser.add_argument("--split", default="train", help="of a Hugging Face dataset (default train)")
    parser.add_argument("--image", default="image", metavar="NAME", help="column with the picture (default image)")


def run(arguments: argparse.Namespace) -> int:
    """Writes NAME.SUFFIX and NAME.txt. Raises SettingError, OutputError."""
    if is_webdataset(arguments.source):
        items = webdataset_items(arguments.source, arguments.caption or "txt")
    else:
        items = dataset_items(arguments.source, arguments.split, arguments.image, arguments.caption or "")
    folder = at_home(arguments.output)
    say(f"{unpack(items, folder)} pictures in {folder}")
    return 0
