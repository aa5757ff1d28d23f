"""`python -m mvtec_ad COMMAND`."""

from mvtec_ad.cli import entry

if __name__ == "__main__":
    entry()
