"""
The rules that a deviation can replace, together: a faithful node has the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.simulated.model import job, network, runtime
from infra.simulated.model.accounts import Accounts, LogOnRights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from infra.simulated.model.accounts import Group, Token, User
    from infra.simulated.model.eras import Era
    from infra.simulated.model.job import Job, JobView, Process
    from infra.simulated.model.network import Network, Respond
    from infra.simulated.model.spec import ContainerSpec, Mount


@dataclass(frozen=True, slots=True)
class Rules:
    """
    One field a rule; each rule's own docstring says what it decides and where that is from.
    """

    join_arguments: Callable[[Iterable[str]], str] = runtime.join_arguments
    root_location: Callable[[Era, str], str] = runtime.root_location
    mount_point_variable: Callable[[str], str] = runtime.mount_point_variable
    mount_layers: Callable[[int], None] = runtime.mount_layers
    output_lag: Callable[[int], float] = runtime.output_lag
    sandbox_refusal: Callable[[], str | None] = runtime.sandbox_refusal
    start_directory: Callable[[Era, str, str | None], str] = runtime.start_directory
    bound_at: Callable[[Mount, str], str] = runtime.bound_at
    compatibility_link: Callable[[str], str] = runtime.below_root
    left_before: Callable[[], Mapping[str, bytes]] = runtime.left_before
    path_tail: Callable[[Era, str], tuple[str, ...]] = runtime.path_tail
    user_string: Callable[[ContainerSpec], str] = runtime.user_string
    log_on: Callable[[Accounts, str, str], Token] = runtime.log_on
    empty_user: Callable[[Era, Accounts], Token] = runtime.refuse_empty_user
    log_on_rights: Callable[[], LogOnRights] = LogOnRights
    group_of: Callable[[Era, Accounts, str], Group | None] = runtime.group_of
    make_account: Callable[[Accounts, str, str], User] = Accounts.add_user
    join_group: Callable[[Group, User], None] = runtime.join_group
    remove_account: Callable[[Accounts, str], None] = runtime.remove_account
    may_change_accounts: Callable[[Token], bool] = runtime.may_change_accounts
    list_users: Callable[[Accounts], list[User]] = runtime.list_users
    memory_limit: Callable[[int | None], JobView] = runtime.memory_limit
    cpu_limit: Callable[[int | None], tuple[int, int]] = runtime.cpu_limit
    may_commit: Callable[[Process, int], bool] = job.may_commit
    job_of_child: Callable[[Job], Job] = job.job_of_child
    network_of: Callable[[Network, str], Network] = runtime.network_of
    find_listener: Callable[[Network, str, int], Respond | None] = network.find_listener
    answers_echo: Callable[[Network, str], bool] = network.answers_echo
    host_name: Callable[[str, str], str] = runtime.host_name
    language_mode: Callable[[Token], str] = runtime.language_mode
