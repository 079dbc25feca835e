"""Pip for an environment of EdgeNAS' own: where packages come from is the user's to say, and nothing else."""

# Run by the environment's Python, on the device, so that what is secret in an address stays there. What pip was told
# elsewhere of indexes, wheels, certificates and proxies still holds. What would put packages elsewhere, other versions,
# or none (`target`, `user`, `constraint`, `no-binary`, `require-virtualenv` ...) does not.
PROGRAM = """
import ast, os, subprocess, sys
sources = ("index-url", "extra-index-url", "no-index", "find-links", "trusted-host", "cert", "client-cert", "proxy",
           "keyring-provider")
pip = [sys.executable, *(["-I"] if sys.flags.isolated else []), "-m", "pip"]
told = subprocess.run([*pip, "config", "list"], stdout=subprocess.PIPE).stdout.decode(errors="replace").splitlines()
kept = {}
for section in ("global", sys.argv[1], ":env:"):
    for name, _, value in (line.partition("=") for line in told):
        key = name[len(section) + 1:]
        if name.startswith(section + ".") and key in sources:
            kept["PIP_" + key.upper().replace("-", "_")] = str(ast.literal_eval(value))
for name in [name for name in os.environ if name.upper().startswith("PIP_")]:
    del os.environ[name]
os.environ.update(kept, PIP_CONFIG_FILE=os.devnull)
os.execv(sys.executable, [*pip, "--disable-pip-version-check", "--no-input", *sys.argv[1:]])
"""


def own_pip(python: list[str]) -> list[str]:
    """How to begin a command of pip in an environment of ours.

    Args:
        python: its interpreter, and what that is started with.
    """
    return [*python, "-c", PROGRAM]
