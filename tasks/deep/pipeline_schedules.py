"""GPipe and 1F1B for ranks on CPUs: a stage asks for all that a step will bring it when the step begins.

torch's schedules ask for a tensor when they have nothing left to compute. gloo sends only what was asked for, by a
thread that then finds no free core, so that both stages wait for every tensor. Asked for early, a tensor travels when
it is made, while the other stage computes. On GPUs torch's schedules are right: NCCL carries out what a rank asks for
in order, so a tensor that is asked for early would hold up all that is sent meanwhile.

What differs between the schedules is the order of passes (tasks/deep/passes.py). They are torch's orders, so gradients
are added up as they are there.
"""

from __future__ import annotations

from typing import Any

from torch.distributed.pipelining.schedules import PipelineScheduleSingle, _batch_p2p, _wait_batch_p2p

from tasks.deep.passes import BACKWARD, FORWARD, passes

HELD = 2  # tensors on their way that are not waited for


class EagerSchedule(PipelineScheduleSingle):
    """torch's schedule of one stage a rank, with our loop in the place of theirs (the names are of torch 2.13).

    order: gpipe or 1f1b; the other arguments are torch's.
    """

    def __init__(self, order: str, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.order = order

    def _step_microbatches(
        self,
        arg_mbs: Any = None,
        kwarg_mbs: Any = None,
        target_mbs: Any = None,
        losses: list[Any] | None = None,
        return_outputs: bool = True,
        loss_kwargs: Any = None,
    ) -> None:
        args, options = self._check_inputs(arg_mbs, kwarg_mbs, target_mbs, losses)
        self._initialize_stage(args[0], options[0], target_mbs[0] if target_mbs else None, loss_kwargs)
        stage, count = self._stage, self._n_microbatches
        coming = {(FORWARD, i): _batch_p2p(stage.get_fwd_recv_ops(i)) for i in range(count)}
        coming |= {(BACKWARD, i): _batch_p2p(stage.get_bwd_recv_ops(i)) for i in range(count)}
        going: list[Any] = []
        for kind, i in passes(self.order, stage.stage_index, self._num_stages, count):
            if kind == BACKWARD and not self._has_backward:
                continue  # an evaluation
            _wait_batch_p2p(coming.pop((kind, i)))
            if kind == FORWARD:
                output = stage.forward_one_chunk(i, args[i], options[i], save_forward_output=return_outputs)
                going += _batch_p2p(stage.get_fwd_send_ops(i))
                self._maybe_compute_loss(stage, output, target_mbs, i, loss_kwargs)
            else:
                loss = self._maybe_get_loss(stage, i)
                stage.backward_one_chunk(i, loss=loss, last_backward=i == count - 1)
                going += _batch_p2p(stage.get_bwd_send_ops(i))
            _wait_batch_p2p(going[:-HELD])  # long gone, and until it is waited for gloo holds the tensor
            going = going[-HELD:]
        _wait_batch_p2p(going)
        self._update_losses(stage, losses)
        stage.perform_reduce_grad(count if self.scale_grads else 1)
