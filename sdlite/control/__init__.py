"""Pictures that steer what is drawn: ControlNet, T2I-Adapter and IP-Adapter."""
