"""What the daemon tells of itself: /healthz, /readyz, /metrics, and the values behind them and behind its status."""
