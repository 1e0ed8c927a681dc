package daemon

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A mapping is dropped only if all of its pages are as in the file. One that a dynamic linker has
// filled in, and protected then, would come back without what it filled in.
func TestWhichPagesAreTheProgramsOwn(t *testing.T) {
	const program, pages = "/usr/bin/keyagent", "Rss: 8 kB\nPrivate_Dirty: 0 kB\nAnonymous: 0 kB\nSwap: 0 kB\nVmFlags: rd ex mr mw me\n"
	const code = "00400000-00c17000 r-xp 00000000 fe:00 12510449                           "
	own := []mapping{{0x400000, 0x817000}}
	for name, tt := range map[string]struct {
		text string
		want []mapping
	}{
		"code":      {code + program + "\n" + pages, own},
		"constants": {"00c17000-0146b000 r--p 00817000 fe:00 12510449   /usr/bin/keyagent\n" + pages, []mapping{{0xc17000, 0x854000}}},
		"both": {code + program + "\n" + pages + "00c17000-0146b000 r--p 00817000 fe:00 12510449   /usr/bin/keyagent\n" + pages,
			[]mapping{{0x400000, 0x817000}, {0xc17000, 0x854000}}},
		"variables":                             {"0146b000-014fb000 rw-p 0106b000 fe:00 12510449   /usr/bin/keyagent\n" + pages, nil},
		"shared":                                {"0146b000-014fb000 r--s 0106b000 fe:00 12510449   /usr/bin/keyagent\n" + pages, nil},
		"another file":                          {code + program + "2\n" + pages, nil},
		"a program replaced":                    {code + program + " (deleted)\n" + pages, own},
		"no file":                               {"7fc3b350e000-7fc3b3800000 r--p 00000000 00:00 0 \n" + pages, nil},
		"filled in":                             {code + program + "\n" + strings.Replace(pages, "Anonymous: 0", "Anonymous: 4", 1), nil},
		"of a file that is not on the disk yet": {code + program + "\n" + strings.Replace(pages, "Dirty: 0", "Dirty: 4", 1), own},
		"filled in, swapped":                    {code + program + "\n" + strings.Replace(pages, "Swap: 0", "Swap: 4", 1), nil},
		"a kernel that says no":                 {code + program + "\nRss: 8 kB\n", nil},
		"after one that is filled in": {code + program + "\n" + strings.Replace(pages, "Anonymous: 0", "Anonymous: 4", 1) +
			"00c17000-0146b000 r--p 00817000 fe:00 12510449   /usr/bin/keyagent\n" + pages, []mapping{{0xc17000, 0x854000}}},
		"no addresses": {"x-y r-xp 00000000 fe:00 12510449 /usr/bin/keyagent\n" + pages, nil},
		"nothing":      {"", nil},
	} {
		if got := programMaps(tt.text, program); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %#x, want %#x", name, got, tt.want)
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

// Memory is given back after the start, and once after each time of activity, when that is over.
func TestMemoryIsGivenBackWhenTheAgentIsQuiet(t *testing.T) {
	minutes := []struct {
		activity uint64 // until the end of the minute
		shrunk   int    // times, by then
	}{{0, 1}, {0, 1}, {7, 1}, {9, 1}, {9, 2}, {9, 2}, {9, 2}, {10, 2}, {10, 3}, {10, 3}}
	var activity uint64
	shrunk, minute := 0, 0
	sleep := func(_ context.Context, d time.Duration) error {
		if d != quietTime {
			t.Errorf("it waits for %v", d)
		}
		if minute > 0 && shrunk != minutes[minute-1].shrunk {
			t.Errorf("minute %d: memory was given back %d times, want %d", minute, shrunk, minutes[minute-1].shrunk)
		}
		if minute == len(minutes) {
			return context.Canceled
		}
		activity = minutes[minute].activity
		minute++
		return nil
	}
	giveMemoryBack(t.Context(), func() uint64 { return activity }, sleep, func() { shrunk++ })
	if minute != len(minutes) {
		t.Errorf("it ended after %d minutes", minute)
	}
}
