"""`celluscan build`, as a script for launchers."""

from celluscan_hf.cli import run_script

if __name__ == "__main__":
    run_script("build")
