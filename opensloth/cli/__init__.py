"""The `opensloth` command: `opensloth --help`, or `python -m opensloth.cli --help`."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> None:
    """Runs the command and leaves with its exit code."""
    from opensloth.cli import exit_codes
    from opensloth.cli.app import app
    from opensloth.cli.failures import render_error
    from opensloth.cli.output import err, print_json
    from opensloth.remote.errors import ClientError

    def leave(error: ClientError) -> NoReturn:
        if "--json" in sys.argv:
            print_json(error.as_json())
        else:
            render_error(err(), error)
        sys.exit(exit_codes.of_error(error))

    try:
        app(prog_name="opensloth")
    except ClientError as error:
        leave(error)
    except KeyboardInterrupt:
        sys.exit(exit_codes.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone (`opensloth jobs | head`); Python would complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(exit_codes.FAILED)
    except OSError as problem:
        if problem.filename is None:
            raise
        # A file or folder of whoever runs the command: no right to read it, no room to write it.
        leave(ClientError(f"{problem.filename}: {problem.strerror}.", code="file_error"))
