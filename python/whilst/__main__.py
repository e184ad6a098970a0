"""``python -m whilst`` is the command ``whilst``."""

from whilst._command import main

if __name__ == "__main__":
    main()
