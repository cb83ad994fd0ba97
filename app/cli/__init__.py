"""The two console commands, `ankisyncd` and `ankisyncctl`."""
