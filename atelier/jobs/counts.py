"""The number of jobs in each state, for those who watch the server; counted seldom, and None rather than an error."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from atelier.core.errors import JobsUnavailable
from atelier.core.fresh import Fresh
from atelier.core.jobs import JobState
from atelier.stores.jobs import Jobs

logger = logging.getLogger(__name__)

#: Age at which jobs are counted again: the database reads the index of all jobs for it.
_MAX_AGE_S = 2.0
_TIMEOUT_S = 1.0


class JobCounts:
    """The numbers of all owners' jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._counts = Fresh(jobs.num_by_state, max_age_s=_MAX_AGE_S)

    async def by_state(self) -> Mapping[JobState, int] | None:
        """Return numbers that are at most two seconds old, or None if the database does not answer within one."""
        try:
            return await self._counts.get(timeout_s=_TIMEOUT_S)
        except (JobsUnavailable, TimeoutError) as error:
            logger.warning("the jobs cannot be counted", exc_info=error)
            return None
