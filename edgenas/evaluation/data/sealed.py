"""The test split: sealed, opened by one function that writes it down first."""

import hashlib
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgenas.errors import CheckFailedError
from edgenas.ledger import Ledger

EVENT = "test_opened"


class SealedTest:
    """Indices of the test images. Only its size can be read; `open` gives them out.

    A study may look at the test split once, for the one candidate it has chosen: whoever looks, chooses again and
    looks again, reports the luckiest of several, not the accuracy.
    """

    __slots__ = ("__indices", "identity")

    def __init__(self, indices: NDArray[np.int64], identity: str) -> None:
        self.__indices = indices
        self.identity = identity

    def __len__(self) -> int:
        return len(self.__indices)

    def __repr__(self) -> str:
        return f"SealedTest({len(self)} images, sealed)"

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise CheckFailedError("The test split is sealed: use .open(ledger, purpose=..., study=..., candidate=...).")

    __iter__ = __getitem__ = __array__ = _refuse

    def __reduce__(self) -> tuple[type["SealedTest"], tuple[NDArray[np.int64], str]]:
        return SealedTest, (self.__indices, self.identity)

    @property
    def digest(self) -> str:
        """12 hex digits of a hash of the indices: equal for equal splits."""
        return hashlib.sha256(self.__indices.astype("<i8").tobytes()).hexdigest()[:12]

    def refuse_second(self, ledger: Ledger, study: str, candidate: str) -> None:
        """Raise `CheckFailedError` where the study opened it for another candidate before."""
        for first in ledger.entries(EVENT):
            if first.get("study") == study and first.get("candidate") != candidate:
                raise CheckFailedError(
                    f"The test split of study {study!r} was opened first at {first['time']} for "
                    f"{first.get('candidate')} ({first.get('purpose')}): a second look, for {candidate}, makes its "
                    "accuracy a chosen one. `edgenas train --again` opens it all the same; ledger and bundle say so."
                )

    def candidates(self, ledger: Ledger, study: str) -> int:
        """How many candidates of a study it was opened for so far."""
        return len({entry.get("candidate") for entry in ledger.entries(EVENT) if entry.get("study") == study})

    def open(
        self, ledger: Ledger, purpose: str, study: str, candidate: str, *, again: bool = False
    ) -> NDArray[np.int64]:
        """The indices, after `test_opened` is in the ledger.

        Args:
            ledger: the study's.
            purpose: why, in words, such as "final accuracy of bundle b1".
            study: name of the study.
            candidate: id of the candidate or bundle. The same one may be measured again.
            again: open it for another candidate of a study that has opened it; recorded as such.

        Returns:
            int64, [len(self)].

        Raises:
            CheckFailedError: this study opened it before for another candidate, and `again` is False.
        """
        if not again:
            self.refuse_second(ledger, study, candidate)
        before = [entry for entry in ledger.entries(EVENT) if entry.get("study") == study]
        ledger.append(
            EVENT,
            study=study,
            candidate=candidate,
            purpose=purpose,
            data=self.identity,
            split=self.digest,
            images=len(self),
            opening=len(before) + 1,
            again=bool(before),
        )
        return self.__indices.copy()
