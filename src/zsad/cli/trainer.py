"""``zsad fit|validate|test|predict``: Lightning's command line for every method and data set, by short names."""

import logging
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from rich.console import Console

from zsad.cli.mistakes import check_options, one_line, pairs
from zsad.cli.predicted import MapWriter
from zsad.cli.result_table import print_result
from zsad.cli.tested import everyones, write_test
from zsad.datamodules import REGISTRY as DATA_REGISTRY
from zsad.datamodules import BenchmarkDataModule
from zsad.datamodules.outside import Registry
from zsad.decision import Card
from zsad.inference import adapters
from zsad.inference.loading import UNTRAINED
from zsad.methods import REGISTRY as METHOD_REGISTRY
from zsad.methods import Method
from zsad.methods.restoring import stored_backbone, stored_options
from zsad.methods.trained import TrainedMethod
from zsad.metrics.result import EvaluationResult
from zsad.prompts.yaml_text import read_yaml
from zsad.weights import registry
from zsad.weights.checkpoints import read_checkpoint, refuse_pickles
from zsad.weights.files import disk_error, is_full

_OWN_CHECKPOINTS = ("last", "best", "hpc")  # words of the Trainer for files that it wrote itself


class ZsadCLI(LightningCLI):
    """Lightning's command line with our defaults; methods and data sets go by class or registry name."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--out`` for the files that ``predict`` and ``test`` write, and ``--calibration``."""
        parser.add_argument("--out", type=str, default="zsad-predictions", help="folder that predict and test write to")
        parser.add_argument("--calibration", type=str, default=None, help="of predict: card of 'zsad calibrate'")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read the arguments, and remember which options of the model were given by hand."""
        super().parse_arguments(parser, args)
        typed = parser.parse_args(args, defaults=False)
        self._typed = typed[typed.subcommand]
        model = self._typed.get("model") or {}
        self._by_hand: dict[str, Any] = dict(vars(model.get("init_args") or Namespace()))

    def _parse_ckpt_path(self) -> None:
        """Take from a checkpoint what a checkpoint may set, in place of Lightning's reading, which takes everything.

        Raises:
            CheckpointError: It is of another class, contradicts what was given by hand, or may not be read.
            FileNotFoundError: There is no such file.
        """
        config = self.config[self.config.subcommand]
        path = config.get("ckpt_path")
        if path is None or path in _OWN_CHECKPOINTS:
            return
        refuse_pickles(config.get("weights_only"))
        module, _, name = config.model.class_path.rpartition(".")
        kind = getattr(import_module(module), name)
        if self.config.subcommand != "fit" and (path == UNTRAINED or adapters.choose(kind, path) is not None):
            return  # a name: see before_test
        saved = read_checkpoint(path)
        options = stored_options(kind, saved, self._by_hand, path)
        if "backbone" not in self._by_hand:
            options["backbone"] = stored_backbone(kind, saved, path)
        for option, value in options.items():
            config.model.init_args[option] = value

    def before_instantiate_classes(self) -> None:
        """Keep no predictions in memory: they go to files."""
        if self.subcommand == "predict":
            self.config.predict.return_predictions = False
        elif self.subcommand in ("test", "validate") and "verbose" not in self._typed:
            self.config[self.subcommand].verbose = False  # our table says it in fewer lines

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the trainer: it trains for the published epochs unless told otherwise, and writes what it predicts."""
        given = self.config[self.subcommand].trainer
        untold = all(given.get(name) in (None, -1) for name in ("max_epochs", "max_steps", "max_time"))
        if self.subcommand == "fit" and untold and isinstance(self.model, TrainedMethod):
            kwargs["max_epochs"] = self.model.published_epochs
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        strategy = str(given.get("strategy"))
        if self.subcommand in ("test", "validate") and any(word in strategy for word in ("spawn", "fork", "notebook")):
            raise ValueError(
                f"--trainer.strategy {strategy} leaves what was found in processes that end with the run: give "
                f"--trainer.strategy ddp."
            )
        if self.subcommand == "predict":
            card = None if self.config.predict.calibration is None else Card.load(self.config.predict.calibration)
            trainer.callbacks.append(MapWriter(self.config.predict.out, card))  # type: ignore[attr-defined]
        return trainer

    def before_test(self) -> None:
        """Load published adapters if ``ckpt_path`` names them; without one the papers' pair, on its backbone."""
        given, model = self.config_init[self.subcommand], self.model
        checkpoint = given.get("ckpt_path")
        if checkpoint == UNTRAINED:
            given["ckpt_path"] = None
            return
        if not isinstance(model, TrainedMethod) or model.trained_on or str(checkpoint) in _OWN_CHECKPOINTS:
            return
        kind: Any = type(model)
        if checkpoint is None:
            usual = registry.default_for(adapters.key_of(kind))
            if usual is None or usual.backbone != model.clip.name:
                return
        if (entry := adapters.choose(kind, checkpoint, self.datamodule.name)) is not None:
            adapters.fitting_backbone(entry, model.clip)
            model.load_weights(adapters.fetch(entry).path)
            given["ckpt_path"] = None

    before_validate = before_predict = before_test

    def _table(self) -> EvaluationResult:
        result: EvaluationResult = (
            self.model.evaluator.compute()
        )  # every process takes part: each has seen its share of the images
        if self.trainer.is_global_zero:
            print_result(result, Console())
        return result

    def after_test(self) -> None:
        """Print the metrics as a table, per class and mean; write what ``--out`` asks for."""
        result = self._table()
        if "out" not in self._typed:
            return
        images = everyones(self.model.evaluation.images, self.datamodule)
        if self.trainer.is_global_zero:
            path = write_test(Path(self._typed.out), self.trainer, self.model, self.datamodule, result, images)
            Console().print(f"Result, scores and pictures: {path.parent}", soft_wrap=True, highlight=False)

    def after_validate(self) -> None:
        """Print the metrics as a table, per class and mean."""
        self._table()


def _check_yaml(arguments: Sequence[str]) -> None:
    """Refuse configuration files and values that hold tags or write out to masses; the parser itself is more lenient.

    Raises:
        ValueError: One does.
    """
    previous = ""
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if (flag if equals else previous) in ("--config", "-c", "--trainer.config", "--model.config", "--data.config"):
            path = Path(value if equals else argument)
            if path.is_file():
                read_yaml(path.read_text(encoding="utf-8"), f"'{path}'")
        elif "&" in argument or "!" in argument:
            read_yaml(value if equals else argument, flag if equals else previous)
        previous = argument


def class_names(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with registry names after ``--model`` and ``--data`` replaced by class names."""
    registries: dict[str, Registry[Any]] = {"--model": METHOD_REGISTRY, "--data": DATA_REGISTRY}
    result: list[str] = []
    for number, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if equals and flag in registries:
            argument = f"{flag}={_class_name(registries[flag], value)}"
        elif number and arguments[number - 1] in registries:
            argument = _class_name(registries[arguments[number - 1]], argument)
        result.append(argument)
    return result


def _class_name(registry: Registry[Any], name: str) -> str:
    key = name.lower()
    if key in registry.own:
        return str(registry.own[key].__name__)
    if "." not in name and (found := registry.find_outside(name, by_hand=True)) is not None:
        return f"{found.__module__}.{found.__qualname__}"
    return name


def main(arguments: Sequence[str]) -> int:
    """Run Lightning's command line; ``arguments`` begin with the subcommand."""
    # only a training run has something to keep in a log folder
    fitting = arguments[0] == "fit"
    quiet = {} if fitting else {"logger": False, "enable_checkpointing": False}
    # it is meant to be called like this: another part of the program has read the command's name already
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_tips)
    _check_yaml(arguments)
    check_options(arguments[1:])
    try:
        _command(arguments, fitting, quiet)
    except ArgumentError as error:
        raise ValueError(one_line(str(error))) from error
    except (ValueError, TypeError, OSError) as error:
        if isinstance(error, OSError) and is_full(error):  # Lightning's loggers and its copy of the configuration
            folder = next((value for flag, value in pairs(arguments) if flag == "--trainer.default_root_dir"), ".")
            raise disk_error(error, Path(error.filename or Path(folder, "lightning_logs"))) from error
        if "Errors:" not in str(error):
            raise
        raise ValueError(one_line(str(error))) from error
    return 0


def _no_tips(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()


def _command(arguments: Sequence[str], fitting: bool, quiet: dict[str, Any]) -> None:
    frank = {"exit_on_error": False}  # an error is raised, in place of a page of usage
    ZsadCLI(
        Method,
        BenchmarkDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        trainer_defaults=quiet,
        save_config_callback=SaveConfigCallback if fitting else None,
        save_config_kwargs={"overwrite": True},
        auto_configure_optimizers=False,
        args=class_names(arguments),
        parser_kwargs={**frank, **{name: dict(frank) for name in ZsadCLI.subcommands()}},
    )
