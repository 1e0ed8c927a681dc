package daemon

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestWhichPagesAreTheProgramsOwn(t *testing.T) {
	const program = "/usr/bin/keyagent"
	for name, tt := range map[string]struct {
		line       string
		from, size uintptr
	}{
		"code":               {"00400000-00c17000 r-xp 00000000 fe:00 12510449                           /usr/bin/keyagent", 0x400000, 0x817000},
		"constants":          {"00c17000-0146b000 r--p 00817000 fe:00 12510449                           /usr/bin/keyagent", 0xc17000, 0x854000},
		"variables":          {"0146b000-014fb000 rw-p 0106b000 fe:00 12510449                           /usr/bin/keyagent", 0, 0},
		"shared":             {"0146b000-014fb000 r--s 0106b000 fe:00 12510449                           /usr/bin/keyagent", 0, 0},
		"another file":       {"00400000-00c17000 r-xp 00000000 fe:00 12510449                           /usr/bin/keyagent2", 0, 0},
		"a program replaced": {"00400000-00c17000 r-xp 00000000 fe:00 12510449                           /usr/bin/keyagent (deleted)", 0x400000, 0x817000},
		"no file":            {"7fc3b350e000-7fc3b3800000 r--p 00000000 00:00 0 ", 0, 0},
		"the kernel's":       {"7ffd3a9f2000-7ffd3a9f4000 r-xp 00000000 00:00 0                          [vdso]", 0, 0},
		"no addresses":       {"x-y r-xp 00000000 fe:00 12510449 /usr/bin/keyagent", 0, 0},
		"nothing":            {"", 0, 0},
	} {
		from, size, ok := programPages(tt.line, program)
		if from != tt.from || size != tt.size || ok != (size > 0) {
			t.Errorf("%s: %#x %#x %t", name, from, size, ok)
		}
	}
}

// Pages of the program are fewer afterwards, and it goes on.
func TestTheProgramGoesOnWithoutItsPages(t *testing.T) {
	resident := func() int {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(status) {
			if rest, ok := strings.CutPrefix(string(line), "RssFile:"); ok {
				kB, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
				if err != nil {
					t.Fatal(err)
				}
				return kB
			}
		}
		t.Skip("this kernel does not say how many pages of files are resident")
		return 0
	}
	before := resident()
	if err := dropProgramPages(); err != nil {
		t.Fatal(err)
	}
	if after := resident(); after >= before {
		t.Errorf("%d kB of files are resident, %d before", after, before)
	}
}
