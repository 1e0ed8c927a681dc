package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRefusalsAreFound: what refuses is made removable, and nothing else.
func TestRefusalsAreFound(t *testing.T) {
	t.Parallel()
	const source = `package p

func f(a, b int) (int, error) {
	if a == 1 {
		return 0, errors.New("one")
	}
	if x, err := g(); err != nil {
		return x, err
	}
	switch {
	case a == 2:
		return 0, fmt.Errorf("two")
	case b == 2:
		return 0, absent("no b")
	}
	if a == 3 {
		return 3, nil
	}
	return 0, nil
}

func h(a int) bool {
	if a == 4 && a != 5 {
		return false
	}
	return true
}
`
	name := filepath.Join(t.TempDir(), "p.go")
	if err := os.WriteFile(name, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	changed, mutants, err := mutable(name)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range mutants {
		mutants[i] = strings.TrimPrefix(m, name+" ")
	}
	want := []string{"f 1: a == 1", "f 2: err != nil", "f 3: a == 2", "h 1: a == 4 && a != 5"}
	if !slices.Equal(mutants, want) {
		t.Errorf("mutants are %q, want %q", mutants, want)
	}
	for _, guard := range []string{`1: a == 1") && (a == 1) {`, `err != nil") && (err != nil) {`, `a == 2") && (a == 2):`, `&& (a == 4 && a != 5) {`} {
		if !strings.Contains(string(changed), guard) {
			t.Errorf("no %q in\n%s", guard, changed)
		}
	}
}

// TestTheListIsOfThisVerifier: every check was removed, and its removal noticed. Make mutate writes
// the list.
func TestTheListIsOfThisVerifier(t *testing.T) {
	t.Chdir("../../..")
	list, err := os.ReadFile("attest/testdata/mutants.txt")
	if err != nil {
		t.Fatal(err)
	}
	checks, err := checkNames()
	if err != nil {
		t.Fatal(err)
	}
	if len(checks) < 40 {
		t.Fatalf("%d checks", len(checks))
	}
	lines := strings.Split(string(list), "\n")
	for _, name := range checks {
		if !slices.Contains(lines, "killed    "+name) {
			t.Errorf("%s is not in the list: run make mutate", name)
		}
	}
	if strings.Contains(string(list), "SURVIVED") {
		t.Error("a mutant survived: a test for what it lacks is missing")
	}
	verifier, err := os.ReadFile("attest/verify.go")
	if err != nil || strings.Count(string(verifier), outcomeCall) != 1 {
		t.Errorf("verify.go makes its checks elsewhere than by %s: %v", outcomeCall, err)
	}
}
