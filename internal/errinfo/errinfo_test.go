package errinfo_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/keyagent/keyagent/internal/errinfo"
)

type outspoken struct{ refuses bool }

func (outspoken) Error() string           { return "no" }
func (e outspoken) Refuses() bool         { return e.refuses }
func (e outspoken) RefusesEvidence() bool { return e.refuses }
func (outspoken) Hint() string            { return "do this" }

func TestPropertiesOfAnErrorAreFoundInAllThatItWraps(t *testing.T) {
	plain := errors.New("plain")
	for _, tc := range []struct {
		name    string
		err     error
		refuses bool
		hint    string
	}{
		{"nothing", nil, false, ""},
		{"silent", plain, false, ""},
		{"itself", outspoken{true}, true, "do this"},
		{"not for good", outspoken{false}, false, "do this"},
		{"wrapped", fmt.Errorf("x: %w", outspoken{true}), true, "do this"},
		{"among others", errors.Join(plain, outspoken{true}), true, "do this"},
		{"the first one answers", errors.Join(outspoken{false}, outspoken{true}), false, "do this"},
	} {
		if got := errinfo.Refuses(tc.err); got != tc.refuses {
			t.Errorf("%s: Refuses = %v", tc.name, got)
		}
		if got := errinfo.RefusesEvidence(tc.err); got != tc.refuses {
			t.Errorf("%s: RefusesEvidence = %v", tc.name, got)
		}
		if got := errinfo.Hint(tc.err); got != tc.hint {
			t.Errorf("%s: Hint = %q", tc.name, got)
		}
	}
}
