"""What a shell of a device is asked to do: by SSH everything goes through one, and small ones know little."""

import os
import re
import shlex
from collections.abc import Sequence

# Says the process's number (so that it can be stopped), goes home, and becomes the command.
START = 'echo edgenas-pid:$$; cd 2>/dev/null; exec "$@"'
STOP = 'kill -KILL -"$1" 2>/dev/null || kill -KILL "$1"'
# A pipe in the place of a file would be waited for for ever, and a folder would take the file in.
_PLACE = (
    'mkdir -p -- "$(dirname -- "$1")" || exit 1; [ ! -d "$1" ] || { echo "a folder has that name" >&2; exit 1; }; '
    '[ ! -p "$1.part" ] || rm -f -- "$1.part"; '
)
GET = '[ ! -e "$1" ] || [ -f "$1" ] || { echo "it is no regular file" >&2; exit 1; }; exec cat -- "$1"'
# Synced before it takes its name: a power cut leaves no file that has the name and not the content. An old `sync` takes
# no file, and syncs all there is.
PUT = _PLACE + (
    'cat > "$1.part" && [ "$(wc -c < "$1.part")" -eq "$2" ] && '
    '{ sync "$1.part" 2>/dev/null || sync 2>/dev/null || :; } && '
    'mv -f -- "$1.part" "$1" && exit 0; rm -f -- "$1.part"; exit 1'
)
# The same, going on where it was; not synced, for whoever asks for this checks the content's hash before it is used.
# Cut again (2), what came stays; without room or whatever else (1), nothing does.
# It goes on in a copy, where there is room, of what was there when it was asked: the process of a link that broke may
# write on into what it has open.
RESUME = _PLACE + (
    'if [ -s "$1.part" ]; then head -c "$3" "$1.part" > "$1.part-$$" && '
    'mv -f -- "$1.part-$$" "$1.part" || rm -f -- "$1.part-$$"; fi; '
    'cat >> "$1.part" || { rm -f -- "$1.part"; exit 1; }; '
    'have=$(wc -c < "$1.part") && [ "$have" -lt "$2" ] && exit 2; '
    '[ "$have" -eq "$2" ] && mv -f -- "$1.part" "$1" && exit 0; rm -f -- "$1.part"; exit 1'
)
SIZE = 'test -f "$1.part" && wc -c < "$1.part" || echo 0'
_DECODE = 'eval "set -- $(printf %b "$1")"; '


def command(script: str, words: Sequence[str]) -> str:
    """What runs a script of ours with these words as its arguments, whatever the account's login shell is.

    csh takes no line feed and no "!" in quotes, and fish no backslash as others do: what the login shell reads holds
    nothing but quoted letters, signs that all of them leave alone, and octal numbers. The script itself must be so.
    """
    told = re.sub(rb"[^ -~]|[!'\\]", lambda found: b"\\0%03o" % found[0][0], os.fsencode(shlex.join(words)))
    return f"sh -c '{_DECODE}{script}' sh '{told.decode()}'"
