"""How the daemon is monitored: its status file, /healthz, /readyz and /metrics, and the values behind them."""
