"""beastd under the system's own service manager: systemd or launchd."""
