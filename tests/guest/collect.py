#!/usr/bin/env python3
"""Collects what the guest needs to run the integration tests of a build: collect.py BUILD WORK.

Every program that a test of label `integration` names goes to WORK/build, where it is in BUILD, without its debug
information; WORK/CTestTestfile.cmake names the same tests with the paths of the guest. So a new test needs no word here.
"""

import json
import os
import subprocess
import sys

GUEST_BUILD = "/guest/build"
GUEST_SOURCE = "/guest/source"


def quoted(text):
    return "[==[" + text + "]==]"


class Collection:
    def __init__(self, build, source, work):
        self.build = build
        self.source = source
        self.work = work

    def moved(self, text):
        """The text with paths as they are in the guest; programs of the build are copied on the way."""
        if os.path.basename(text).startswith("python3"):
            return "/usr/bin/python3"  # whichever of them CMake found here
        if text.startswith(self.build + "/") and os.path.isfile(text):
            target = self.work + "/build" + text[len(self.build) :]
            if not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                subprocess.run(["strip", "-g", "-o", target, text], check=True)
        return text.replace(self.build, GUEST_BUILD).replace(self.source, GUEST_SOURCE)

    def rows(self, test):
        yield f"add_test({quoted(test['name'])} " + " ".join(quoted(self.moved(word)) for word in test["command"]) + ")"
        properties = {}
        for row in test["properties"]:
            value = row["value"]
            if row["name"] == "ENVIRONMENT":
                moved = []
                for variable in value:
                    name, _, text = variable.partition("=")
                    moved.append(name + "=" + self.moved(text))
                value = moved
            if row["name"] in ("ENVIRONMENT", "LABELS", "RUN_SERIAL", "TIMEOUT"):
                properties[row["name"]] = ";".join(value) if isinstance(value, list) else str(value)
            elif row["name"] == "SKIP_RETURN_CODE":
                properties[row["name"]] = str(value)
        words = " ".join(f"{name} {quoted(value)}" for name, value in properties.items())
        yield f"set_tests_properties({quoted(test['name'])} PROPERTIES {words})"


def main():
    build, work = (os.path.realpath(path) for path in sys.argv[1:3])
    with open(build + "/CMakeCache.txt", encoding="utf-8") as file:
        source = next(line for line in file if line.startswith("CMAKE_HOME_DIRECTORY:")).partition("=")[2].strip()
    listing = subprocess.run(
        ["ctest", "--test-dir", build, "-L", "integration", "--show-only=json-v1"], check=True, capture_output=True, text=True
    )
    collection = Collection(build, source, work)
    with open(work + "/CTestTestfile.cmake", "w", encoding="utf-8") as file:
        for test in json.loads(listing.stdout)["tests"]:
            file.writelines(row + "\n" for row in collection.rows(test))


if __name__ == "__main__":
    main()
