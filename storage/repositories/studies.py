"""Repositories of studies, votes, invitations and guests."""

from sqlalchemy import update

from dataengine.records import Guest, Invitation, Study, Vote
from storage import tables
from storage.repositories.rows import Named, Rows


class Studies(Named[Study]):
    """Blind pairwise comparisons."""

    table = tables.studies
    makes = Study
    what = "study"

    def close(self, study_id: str) -> None:
        """Close a study for votes. Raises `NotFound`."""
        self._update(study_id, state="closed")


class Votes(Rows[Vote]):
    """Votes, one per study, pair, rater and question."""

    table = tables.votes
    makes = Vote
    what = "vote"

    def add(self, *votes: Vote) -> int:
        """Store the votes unless that rater already voted; returns the number of new ones."""
        return self._insert(votes)

    def correct(self, *votes: Vote) -> None:
        """Put these votes in the place of the same raters' earlier ones on the same pairs and questions."""
        table = self.table.c
        for vote in votes:
            same = (
                table.study_id == vote.study_id,
                table.pair == vote.pair,
                table.rater == vote.rater,
                table.question == vote.question,
            )
            changed = {"choice": vote.choice, "seconds": vote.seconds, "created": vote.created}
            self._connection.execute(update(self.table).where(*same).values(**changed))

    def of_study(self, study_id: str, rater: str | None = None, from_pair: int = 0) -> list[Vote]:
        """A study's votes (one rater's with `rater`) from a pair on, in order of pairs."""
        table = self.table.c
        order = table.pair, table.question, table.rater
        of_pairs = table.study_id == study_id, table.pair >= from_pair
        statement = self._select().where(*of_pairs).order_by(*order)
        return self._records(statement if rater is None else statement.where(table.rater == rater))


class Invitations(Rows[Invitation]):
    """Links by which people without an account become raters of one study."""

    table = tables.invitations
    makes = Invitation
    what = "invitation"

    def add(self, invitation: Invitation) -> int:
        """Store the invitation; returns 1 or 0."""
        return self._insert([invitation])

    def find(self, token_hash: str) -> Invitation | None:
        """The invitation of that token hash, expired or not."""
        return next(iter(self._records(self._select().where(self.table.c.token_hash == token_hash))), None)

    def of_study(self, study_id: str) -> list[Invitation]:
        """A study's invitations, oldest first."""
        table = self.table.c
        return self._records(self._select().where(table.study_id == study_id).order_by(table.created))

    def take(self, token_hash: str, at: float) -> bool:
        """Take one place if one is left and the link is valid; exactly one request gets the last place."""
        table = self.table.c
        free = table.token_hash == token_hash, table.taken < table.places, table.expires > at
        return bool(
            self._connection.execute(
                update(self.table).where(*free).values(taken=self.table.c.taken + 1)
            ).rowcount
        )

    def end(self, study_id: str, at: float) -> int:
        """Expire a study's open invitations now; returns their number."""
        table = self.table.c
        open_ones = table.study_id == study_id, table.expires > at
        return self._connection.execute(update(self.table).where(*open_ones).values(expires=at)).rowcount


class Guests(Rows[Guest]):
    """Accounts restricted to judging one study."""

    table = tables.guests
    makes = Guest
    what = "guest"

    def add(self, guest: Guest) -> int:
        """Store the guest; returns 1 or 0."""
        return self._insert([guest])

    def find(self, name: str) -> Guest | None:
        """The guest of that account, None for any other account."""
        return next(iter(self._records(self._select().where(self.table.c.name == name))), None)

    def of_study(self, study_id: str) -> list[Guest]:
        """A study's guests, oldest first."""
        table = self.table.c
        return self._records(self._select().where(table.study_id == study_id).order_by(table.created))
