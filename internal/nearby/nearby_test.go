package nearby_test

import (
	"slices"
	"testing"

	"github.com/keyagent/keyagent/internal/nearby"
)

func TestTheClosestNamesAreFound(t *testing.T) {
	t.Parallel()
	names := []string{"min_tcb", "min_abi", "require", "tee"}
	for given, want := range map[string][]string{
		"min_tbc":  {"min_tcb"},
		"Min_TCB":  {"min_tcb"},
		"min_a":    {"min_abi"},
		"required": {"require"},
		"tea":      {"tee"},
		"password": nil,
		"":         nil,
	} {
		if got := nearby.Names(given, names); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
	if got := nearby.Names("cat", []string{"bat", "rat", "car"}); len(got) != 3 {
		t.Errorf("equally close: %q", got)
	}
}
