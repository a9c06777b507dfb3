import torch

from hrnet_ray.distributed.tuning.latency import measure_latency_ms
from hrnet_ray.training.builders import build_model


def test_timing_a_net_leaves_it_as_it_was(tiny, tigers):
    net = build_model(tiny, tigers).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    taken_ms = measure_latency_ms(net, input_hw=(32, 64))

    assert 0 < taken_ms < 60_000
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    net(torch.zeros(2, 3, 32, 64)).sum().backward()  # its weights still learn
