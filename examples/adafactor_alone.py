"""Train a small network with our Adafactor alone: no config, no stages.

Run it in the project's environment: python examples/adafactor_alone.py
"""

import torch

from magicoder.training.adafactor import Adafactor


def main() -> float:
    """Fit a sine; return the last loss."""
    torch.manual_seed(0)
    inputs = torch.linspace(-3, 3, 256).unsqueeze(-1)
    targets = torch.sin(inputs)
    network = torch.nn.Sequential(torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
    network.to(torch.bfloat16)
    # Rounding to the nearest bfloat16 would lose most changes of a small learning rate.
    optimizer = Adafactor(network.parameters(), lr=1e-2, rounding="stochastic", seed=1)
    loss = torch.tensor(0.0)
    for update in range(300):
        loss = torch.nn.functional.mse_loss(network(inputs.bfloat16()).float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if update % 100 == 0:
            print(f"update {update}: loss {loss.item():.4f}, change {optimizer.update_norm.item():.4f}")
    return loss.item()


if __name__ == "__main__":
    print(f"last loss {main():.4f}")
