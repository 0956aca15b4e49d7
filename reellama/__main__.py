"""The command line: `python -m reellama` is `reellama`."""

from reellama.pipeline.cli.main import main

if __name__ == "__main__":
    main()
