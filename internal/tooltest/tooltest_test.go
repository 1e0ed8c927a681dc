package tooltest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/keyagent/keyagent/internal/tooltest"
)

// fakeTest stands in for a test that may be skipped or fail without this one doing so.
type fakeTest struct {
	testing.TB
	failed, skipped bool
}

type stopped struct{}

func (w *fakeTest) Fatalf(string, ...any) { w.failed = true; panic(stopped{}) }
func (w *fakeTest) Skipf(string, ...any)  { w.skipped = true; panic(stopped{}) }

// ask asks for a program that does not exist, and returns the test that asked, once it has ended.
func ask(t *testing.T) (w *fakeTest) {
	t.Helper()
	return askFor(t, func(w *fakeTest) { tooltest.Tool(w, "keyagent-no-such-program") })
}

func askFor(t *testing.T, call func(*fakeTest)) (w *fakeTest) {
	t.Helper()
	w = &fakeTest{TB: t}
	defer func() {
		if r := recover(); r != (any)(stopped{}) {
			t.Errorf("the test went on without what it asked for: %v", r)
		}
	}()
	call(w)
	return w
}

func TestAMissingNameServiceIsAMissingTool(t *testing.T) {
	for promise, skipped := range map[string]bool{"": true, "1": false} {
		t.Setenv(tooltest.RequireEnv, promise)
		if w := askFor(t, func(w *fakeTest) { tooltest.NameService(w, "keyagent-no-such-service") }); w.skipped != skipped || w.failed == skipped {
			t.Errorf("promise %q: skipped = %v, failed = %v", promise, w.skipped, w.failed)
		}
	}
}

func TestAMissingToolSkipsUnlessToolsAreRequired(t *testing.T) {
	t.Setenv(tooltest.RequireEnv, "")
	if w := ask(t); !w.skipped || w.failed {
		t.Errorf("skipped = %v, failed = %v; want it skipped", w.skipped, w.failed)
	}
}

func TestAMissingToolFailsIfToolsAreRequired(t *testing.T) {
	t.Setenv(tooltest.RequireEnv, "1")
	if w := ask(t); w.skipped || !w.failed {
		t.Errorf("skipped = %v, failed = %v; want it failed", w.skipped, w.failed)
	}
}

func TestAToolThatIsThereIsGivenByItsPath(t *testing.T) {
	if path := tooltest.Tool(t, "go"); !filepath.IsAbs(path) {
		t.Errorf("path of go = %q, want an absolute one", path)
	}
}

func TestAServersProgramIsFoundOutsideAUsersPath(t *testing.T) {
	if _, err := os.Stat("/usr/sbin/ldconfig"); err != nil {
		t.Skip("no program in /usr/sbin that is known")
	}
	t.Setenv("PATH", t.TempDir())
	if path := tooltest.Tool(t, "ldconfig"); path != "/usr/sbin/ldconfig" {
		t.Errorf("path of ldconfig = %q", path)
	}
}
