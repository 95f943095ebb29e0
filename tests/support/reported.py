class ReportedLines(list):
    """A reporter that keeps its lines, warnings as they are printed."""

    def say(self, line):
        self.append(line)

    def warn(self, line):
        self.append(f"warning: {line}")
