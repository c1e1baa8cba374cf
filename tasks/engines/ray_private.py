"""All uses of Ray's private names, which may change: what each is for, and what it saves.

Each name is looked up when needed. If one is gone, the public way is used and a warning is logged, once. The names
exist in Ray 2.60; tests/engines/test_ray_private.py fails if the installed Ray lacks one.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tasks.core.errors import RunError

_LOG = logging.getLogger("raymill.ray")

# The names that each use needs, as MODULE:ATTRIBUTE.
NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("ray._private.worker:print_to_stdstream",),
    "loopback": ("ray._private.ray_constants:ENABLE_RAY_CLUSTER",),
    "address": ("ray._private.services:canonicalize_bootstrap_address",),
    "token": ("ray._private.authentication.authentication_token_setup:maybe_enable_token_auth_if_token_available",),
    "cluster": (
        "ray._common.usage.usage_lib:get_cluster_metadata",
        "ray._private.services:find_node_ids",
        "ray._raylet:GcsClient",
        "ray._raylet:InnerGcsClient.get_all_node_info",  # to which `GcsClient` hands it on
    ),
    "dashboard": ("ray._private.worker:get_dashboard_url",),
    "trainer": (
        "ray.train.v2._internal.callbacks.datasets:DatasetsCallback",
        "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
        "ray.train.v2._internal.execution.scaling_policy:FixedScalingPolicy",
        "ray.train.v2._internal.execution.scaling_policy:FixedScalingPolicy.after_controller_start",
        "ray.train.v2._internal.execution.scaling_policy:FixedScalingPolicy._maybe_send_resource_request",
        "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._create_default_callbacks",
        "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._initialize_and_run_controller",
    ),
    "controller": (
        "ray.train.v2._internal.constants:ENV_VARS_TO_PROPAGATE",
        "ray.train.v2._internal.constants:get_env_vars_to_propagate",
        "ray.train.v2._internal.execution.controller.controller:TrainController",
        "ray.train.v2._internal.execution.controller.controller:TrainController.run",
        "ray.train.v2._internal.execution.controller.controller:TrainController.get_result",
    ),
    "data": (
        "ray.data._internal.execution.streaming_executor:create_cluster_autoscaler",
        "ray.data._internal.execution.interfaces:ExecutionResources.from_resource_dict",
        "ray.data._internal.stats:_StatsManager.gen_dataset_id_from_stats_actor",
        "ray.data._internal.stats:_StatsManager.register_dataset_to_stats_actor",
        "ray.data._internal.stats:_StatsManager.update_execution_metrics",
        "ray.data._internal.stats:_StatsManager.update_iteration_metrics",
    ),
    "trials": (
        "ray.tune.execution.class_cache:DEFAULT_ENV_VARS",
        "ray.tune.execution.class_cache:ENV_VARS_TO_PROPAGATE",
    ),
    "reuse": (
        "ray.tune.execution.tune_controller:_ObjectCache.cache_object",
        "ray.tune.execution.tune_controller:_ObjectCache.flush_cached_objects",
    ),
}
# What happens without them, for the warning.
WITHOUT = {
    "messages": "Ray prints its messages on standard output",
    "loopback": "the session of a program that imported Ray itself listens on every interface",
    "address": "ray.init looks for the cluster of this machine",
    "token": "ray.init looks for the cluster's token",
    "cluster": "ray.init looks at the cluster, which takes longer where there is none",
    "dashboard": "ray.init is asked for the dashboard's address",
    "trainer": "Ray Train starts three more processes",
    "controller": "Ray Train starts a controller for each training, which an interrupt does not end on a cluster",
    "data": "Ray Data starts two more processes",
    "reuse": "Tune starts an actor anew where two trials end at once",
    "trials": "Tune makes an environment for each of its actors",
}
_WARNED: set[str] = set()


@dataclass(frozen=True)
class Facts:
    """A cluster's versions and nodes. nodes: the living ones' addresses; here: whether this machine is one of them."""

    ray: str
    python: str
    nodes: tuple[str, ...]
    here: bool


def look_up(name: str) -> Any:
    """Return the object named MODULE:ATTRIBUTE. Raises ImportError or AttributeError if it is gone."""
    module, _, attributes = name.partition(":")
    found: Any = import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


def _all_of(use: str) -> list[Any] | None:
    """Look up the names of this use; None, with one warning, if any is gone."""
    objects = []
    for name in NAMES[use]:
        try:
            objects.append(look_up(name))
        except (ImportError, AttributeError):
            if use not in _WARNED:
                _WARNED.add(use)
                _LOG.warning("this Ray has no %s: %s", name.replace(":", "."), WITHOUT[use])
            return None
    return objects


def send_messages_to(receiver: Callable[..., None]) -> None:
    """Send Ray's messages about lost nodes and workers to `receiver`, as standard output may be a command's JSON.

    Ray has no public switch for them; without the name they are printed.
    """
    if _all_of("messages"):
        worker: Any = import_module("ray._private.worker")
        worker.print_to_stdstream = receiver


def on_loopback(*, alone: bool) -> None:
    """Have sessions that this process starts from here on listen on loopback alone, or as Ray has it.

    Ray reads the variable that says so (docs/decisions/003) when it is imported, which the program may have done before
    `cluster` could set it.
    """
    if _all_of("loopback"):
        constants: Any = import_module("ray._private.ray_constants")
        constants.ENABLE_RAY_CLUSTER = not alone


def own_address() -> str | None:
    """Return HOST:PORT of this machine's cluster; None if only `ray.init` can find it. ConnectionError: there is none.

    It saves a call of `ray.init` to learn that no cluster runs.
    """
    if token := _all_of("token"):
        token[0](warn_if_disabled=False)  # as `ray.init` does for auto
    if not (names := _all_of("address")):
        return None
    return str(names[0]("auto"))


def facts(address: str, timeout: float) -> Facts | None:
    """Ask a cluster for its versions and nodes, without joining it; None if only `ray.init` can ask.

    `ray.init` waits a minute or more for a cluster that is not there or has no node on this machine.
    """
    if not (names := _all_of("cluster")):
        return None
    metadata, node_ids, client_of, _ = names
    client = client_of(address=address)
    about = metadata(client)
    alive = [node for node in client.get_all_node_info(timeout=timeout).values() if node.state == node.ALIVE]
    here = {node.node_id.hex() for node in alive} & set(node_ids())
    addresses = tuple(sorted(node.node_manager_address for node in alive))
    return Facts(about["ray_version"], about["python_version"], addresses, bool(here))


def dashboard_url() -> str | None:
    """Return the dashboard's URL, None without one. In public, Ray returns it from `ray.init` only."""
    if names := _all_of("dashboard"):
        return names[0]() or None
    import ray

    if not ray.is_initialized():
        return None
    # In a running session this only returns the known address.
    return ray.init(ignore_reinit_error=True, logging_level=logging.ERROR, log_to_driver=False).dashboard_url or None


def lean_trainer(*, own: bool, torch: bool = False) -> Any:
    """Return Ray Train's trainer without three of its processes, each 3 s of imports and 110 MB on the machine.

    torch: its `TorchTrainer`, which keeps the process that shards Ray Data sets.

    One asks an autoscaler for the workers, which their placement group does, too; one removes that group after the
    controller's death, which Ray does for a group that is not detached; one shards Ray Data sets, of which there are
    none. All trainings of this process share a controller's process (`ControllerHost`), 2 s of CPU each, and end with
    it. own: in a session that this process has started. Without the names it is Ray Train's own, with all of its
    processes, and an interrupted training on a cluster goes on until this process ends.
    """
    base: Any
    if torch:
        from ray.train.torch import TorchTrainer as base
    else:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer as base

    if not (names := _all_of("trainer")):
        return base
    data_sets, cleaner, policy = names[:3]
    left_out = (cleaner,) if torch else (data_sets, cleaner)
    is_shared = _all_of("controller") is not None

    class Fixed(policy):  # type: ignore[valid-type, misc]
        def after_controller_start(self, train_run_context: Any) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    class Trainer(base):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            every = super()._create_default_callbacks()
            return [c for c in every if not isinstance(c, left_out)]

        def _initialize_and_run_controller(self, **given: Any) -> Any:
            given["scaling_policy"] = Fixed(self.scaling_config)
            return _run_in_host(given, own) if is_shared else super()._initialize_and_run_controller(**given)

    return Trainer


class ControllerHost:
    """A Ray actor that is the controller of one training after the other."""

    def __init__(self, own: bool) -> None:
        # Workers with variables of their own would be started anew; a session's have this process's already.
        if own:
            constants: Any = import_module("ray.train.v2._internal.constants")
            constants.ENV_VARS_TO_PROPAGATE = set()

    async def run(self, given: dict[str, Any]) -> Any:
        """Run a training to its end, as Ray Train's actor does; `given`: the controller's arguments."""
        controller = look_up("ray.train.v2._internal.execution.controller.controller:TrainController")(**given)
        await controller.run()
        return controller.get_result()


_HOSTS: dict[str, Any] = {}  # by Ray's job: a handle of an earlier session is nobody's


def _new_host(own: bool) -> Any:
    """Start a host; on a cluster as Ray Train starts its controller, beside the driver and with its variables."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    options: dict[str, Any] = {"num_cpus": 0}
    if not own:
        here = ray.get_runtime_context().get_node_id()
        variables = look_up("ray.train.v2._internal.constants:get_env_vars_to_propagate")()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
        options["runtime_env"] = {"env_vars": {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **variables}}
    return ray.remote(**options)(ControllerHost).remote(own)


def _run_in_host(given: dict[str, Any], own: bool) -> Any:
    import ray

    job = str(ray.get_runtime_context().get_job_id())
    if job not in _HOSTS:
        _HOSTS.clear()
        _HOSTS[job] = _new_host(own)
    try:
        return ray.get(_HOSTS[job].run.remote(given))
    except BaseException:
        if host := _HOSTS.pop(job, None):
            ray.kill(host)  # its workers end with it; the next training has a new one
        raise


def end_trainings() -> None:
    """End the trainings of this process, their workers with them."""
    import ray

    while _HOSTS:
        ray.kill(_HOSTS.popitem()[1])


def clear_trial_environments() -> None:
    """Remove the variables that Tune sets in its actors for other libraries.

    Such an environment takes 0.7 s to make, for each actor. Ray has no public switch for it.
    """
    if _all_of("trials"):
        cache: Any = import_module("ray.tune.execution.class_cache")
        cache.DEFAULT_ENV_VARS, cache.ENV_VARS_TO_PROPAGATE = {}, set()


def keep_trial_actors() -> None:
    """Let Tune keep every actor whose trial has ended for the next one, while more are to come.

    It keeps one, and ends the second of two that come free in the same moment, although all trials here need the same:
    each costs 1.5 s of CPU to start again. Ray has no public switch for it.
    """
    if not _all_of("reuse"):
        return
    controller: Any = import_module("ray.tune.execution.tune_controller")
    own = controller._ObjectCache
    if getattr(own, "keeps_all", False):
        return

    class Keeping(own):  # type: ignore[valid-type, misc]
        keeps_all = True

        def cache_object(self, key: Any, obj: Any) -> bool:
            self._cached_objects[key].append(obj)
            self._num_cached_objects += 1
            return True

        def flush_cached_objects(self, force_all: bool = False) -> Any:
            return super().flush_cached_objects(force_all=True) if force_all else iter(())

    controller._ObjectCache = Keeping


class FixedSize:
    """Ray Data's view of a session that cannot grow."""

    def try_trigger_scaling(self) -> None:
        pass

    def on_executor_shutdown(self) -> None:
        pass

    def get_total_resources(self) -> Any:
        import ray

        resources = look_up("ray.data._internal.execution.interfaces:ExecutionResources")
        return resources.from_resource_dict(ray.cluster_resources())


def lean_data() -> None:
    """Let Ray Data do without two of its actors, 1.5 s of CPU and 100 MB each, in a session of this process's own.

    One of them asks an autoscaler for nodes; the other keeps metrics for the dashboard. Such a session has neither.
    """
    if not _all_of("data"):
        return
    executor: Any = import_module("ray.data._internal.execution.streaming_executor")
    executor.create_cluster_autoscaler = lambda *_, **__: FixedSize()
    manager = look_up("ray.data._internal.stats:_StatsManager")
    manager.gen_dataset_id_from_stats_actor = staticmethod(lambda: uuid.uuid4().hex)
    for name in ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics"):
        setattr(manager, name, staticmethod(lambda *_, **__: None))


def serve_address() -> tuple[str, int] | None:
    """Return where the session's Ray Serve listens; None if it is not up, or this Ray does not tell."""
    from ray.serve import context

    client_of = getattr(context, "_get_global_client", None)
    client = client_of(raise_if_no_controller_running=False) if client_of else None
    options = getattr(client, "http_config", None)
    return None if options is None else (options.host, options.port)


def serve_on_loopback() -> None:
    """Have this replica's internal server listen on loopback. It unpickles what it gets, and Ray Serve 2.60 opens it to
    every interface, even in a session on loopback. Raises RunError if this version of Ray does it elsewhere."""
    from ray.serve._private import replica

    add_port = getattr(replica, "add_port_to_grpc_server", None)
    if add_port is None:
        raise RunError("this version of Ray Serve is not known to stay on loopback", fix="install Ray 2.60")

    def add_loopback(server: Any, address: str) -> Any:
        return add_port(server, address.replace("[::]", "127.0.0.1"))

    vars(replica)["add_port_to_grpc_server"] = add_loopback
