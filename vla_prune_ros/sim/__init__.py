"""Simulated scenes behind one interface, and what runs them episode by episode; no ROS in here."""
