"""The tasks of the drawn benchmark, by name; nothing of what draws and asks is loaded."""

# Which scenario asks for a task.
TASKS = {
    "object naming": "one",
    "object existence": "one",
    "attribute": "one",
    "position": "place",
    "moving direction": "one",
    "action": "one",
    "action order": "order",
    "count": "count",
    "moving count": "count",
    "which moves": "mover",
    "speed": "race",
    "object shuffle": "shuffle",
    "scene transition": "cut",
    "camera": "camera",
}
PHOTOGRAPHS = "photograph naming"  # the task of the split of photographs
