"""Site profiles: options of `landscape submit` that are typed once, in TOML files.

    # landscape-site.toml
    partition = "gpu"
    account = "my-project"
    ntasks-per-node = 4
    module = ["openmpi/5.0"]
    environment = "~/venvs/landscape"

Keys are the command line's options without dashes in front. What is nearer wins, option by option: the command line,
then `landscape-site.toml` beside the job file or in the nearest of its parent folders, then
`$XDG_CONFIG_HOME/landscape/site.toml` (`~/.config/landscape/site.toml`), then what the job file implies, then the
built-in defaults. A list replaces a list, and an empty text takes a value back.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from landscape.errors import InputError
from landscape_jobs.cluster.options import Options, checked

PROJECT = "landscape-site.toml"
USER = Path("landscape", "site.toml")  # in the user's configuration folder


def profiles(job_file: Path, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The profile files there are for a job file, nearest first: the project's, then the user's.

    `environment` holds the shell's variables, of which XDG_CONFIG_HOME and HOME are read.
    """
    folder = job_file.absolute().parent
    project = next((file for home in (folder, *folder.parents) if (file := home / PROJECT).is_file()), None)
    home = Path(environment.get("HOME") or Path.home())
    configuration = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
    user = configuration / USER
    found = (project, user if configuration.is_absolute() and user.is_file() else None)
    return tuple(file for file in found if file is not None)


def read_profile(path: Path) -> dict[str, Any]:
    """The options in a profile file, by their typed names; a relative `environment` starts from the file's folder.

    Raises InputError for what cannot be read or is no TOML, and listing everything that is no option or has no such
    value.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"site profile {path} cannot be read: {error.strerror}; correct or remove it") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"site profile {path} is not valid TOML: {error}") from error
    options: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in content.items():
        try:
            options[name] = checked(name, value, f"site profile {path}")
        except InputError as error:
            problems.append(str(error))
    if len(problems) > 1:
        told = [problem.removeprefix(f"site profile {path}: ") for problem in problems]
        raise InputError(f"site profile {path} cannot be used:\n  " + "\n  ".join(told))
    if problems:
        raise InputError(problems[0])
    return anchored(options, path.absolute().parent)


def options_for(implied: Mapping[str, Any], layers: Mapping[str, Mapping[str, Any]], folder: Path) -> Options:
    """`Options` from what the job implies and from layers of given values, nearest first.

    Keys are typed names; the key of a layer says where it was given, for messages. A relative `environment` starts
    from `folder`. Raises InputError for names, values and combinations that cannot be.
    """
    merged = dict(implied)
    for source, layer in reversed(tuple(layers.items())):
        merged |= {name: checked(name, value, source) for name, value in layer.items()}
    if merged.get("gres") and not any("gpus-per-task" in layer for layer in layers.values()):
        merged.pop("gpus-per-task", None)  # GPUs are asked for in the site's own way
    merged = anchored(merged, folder)
    return Options(**{name.replace("-", "_"): value for name, value in merged.items()})


def anchored(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Options by their typed names, a relative `environment` starting from `folder`."""
    given = options.get("environment")
    return options | {"environment": str(folder / Path(given).expanduser())} if given else options
