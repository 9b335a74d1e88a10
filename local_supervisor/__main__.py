"""`python -m local_supervisor`: the command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .errors import ApiError
from .server import serve


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="local_supervisor", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8787, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path(".supervisor/local"), help="directory of the jobs")
    parser.add_argument("--behaviour", type=json.loads, default={}, help="default behaviour, as JSON")
    parser.add_argument("--token", help="the only accepted bearer token (default: any token)")
    parser.add_argument("--port-file", type=Path, help='file to write "PORT PID" to once the server is ready')
    parser.add_argument(
        "--parent", type=int, help="exit when the process with this id is no longer the parent"
    )
    parser.add_argument(
        "--idle-exit", type=float, help="exit after this many seconds without requests and running jobs"
    )
    given = parser.parse_args()
    try:
        serve(
            given.host,
            given.port,
            given.data,
            given.behaviour,
            given.token,
            given.port_file,
            given.parent,
            given.idle_exit,
        )
    except ApiError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
