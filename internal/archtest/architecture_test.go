package archtest_test

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// architecture is the page that draws the house.
const architecture = "docs/architecture.md"

// A stranger finds each package on the page of the architecture, by itself or as one of a family
// ("simulator/…"), and no package there that is gone.
func TestTheArchitectureNamesEachPackage(t *testing.T) {
	var packages []string
	for _, s := range sourcesOfAllModules(t) {
		packages = append(packages, s.dir())
	}
	slices.Sort(packages)
	packages = slices.Compact(packages)
	named := namedFolders(read(t, architecture))
	for _, dir := range packages {
		if !slices.ContainsFunc(named, func(name string) bool { return covers(name, dir) }) {
			t.Errorf("%s does not name %s", architecture, dir)
		}
	}
	for _, name := range named {
		if !slices.ContainsFunc(packages, func(dir string) bool { return covers(name, dir) || within(dir, name) }) {
			t.Errorf("%s names %s, where no package is", architecture, name)
		}
	}
}

// namedFolders returns the folders in the first cells of the page's tables of folders.
func namedFolders(page string) (names []string) {
	folder := regexp.MustCompile("`([^`]+)`")
	for _, table := range strings.Split(page, "\n| Folder |")[1:] {
		table, _, _ = strings.Cut(table, "\n\n")
		for _, row := range strings.Split(table, "\n")[2:] {
			cell, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " |")
			for _, match := range folder.FindAllStringSubmatch(cell, -1) {
				names = append(names, match[1])
			}
		}
	}
	return names
}

func covers(name, dir string) bool {
	family, isFamily := strings.CutSuffix(name, "/…")
	return name == dir || isFamily && within(dir, family)
}

// An arrow between the rooms is an import.
func TestTheArrowsOfTheArchitectureAreImports(t *testing.T) {
	imports := map[string]map[string]bool{}
	for _, s := range sources(t) {
		if s.servesTests() {
			continue
		}
		if imports[s.dir()] == nil {
			imports[s.dir()] = map[string]bool{}
		}
		for _, i := range s.imports() {
			if dir, ok := ours(i); ok {
				imports[s.dir()][dir] = true
			}
		}
	}
	drawn := arrows(t, read(t, architecture))
	if len(drawn) < 10 {
		t.Fatalf("%s has %d arrows between rooms", architecture, len(drawn))
	}
	for _, a := range drawn {
		found := false
		for dir := range imports[a.from] {
			found = found || covers(a.to, dir)
		}
		if !found {
			t.Errorf("%s draws an arrow from %s to %s, which is no import", architecture, a.from, a.to)
		}
	}
}

type arrow struct{ from, to string }

// arrows reads the diagram of the rooms: lines "a --> b & c", of nodes that have their labels in
// brackets once.
func arrows(t *testing.T, page string) (all []arrow) {
	t.Helper()
	_, diagram, found := strings.Cut(page, "an arrow is an import")
	_, diagram, begins := strings.Cut(diagram, "```mermaid\nflowchart TB\n")
	diagram, _, ends := strings.Cut(diagram, "```")
	if !found || !begins || !ends {
		t.Fatalf("%s has no diagram of the rooms", architecture)
	}
	labels := map[string]string{}
	for _, match := range regexp.MustCompile(`(\w+)\["([^"]+)"\]`).FindAllStringSubmatch(diagram, -1) {
		labels[match[1]] = match[2]
	}
	for _, line := range strings.Split(strings.TrimSpace(diagram), "\n") {
		var before []string
		for _, step := range strings.Split(line, " --> ") {
			var here []string
			for _, node := range strings.Split(step, " & ") {
				name, _, _ := strings.Cut(strings.TrimSpace(node), "[")
				if labels[name] != "" {
					name = labels[name]
				}
				here = append(here, name)
				for _, from := range before {
					all = append(all, arrow{from, name})
				}
			}
			before = here
		}
	}
	return all
}
