"""Video files and pictures to frames with their times."""
