package engine

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/attest/maa"
)

// runningOS reads os-release(5) for the attestation request, where it is a
// description and proves nothing; without the file, it says "Linux".
func runningOS() maa.OS {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return maa.OS{Distro: "Linux"}
	}
	defer f.Close()
	return parseOSRelease(io.LimitReader(f, 64<<10))
}

func parseOSRelease(r io.Reader) maa.OS {
	running := maa.OS{Distro: "Linux"}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		value = strings.Trim(value, `"'`)
		switch name {
		case "NAME":
			running.Distro = value
		case "VERSION_ID":
			major, minor, _ := strings.Cut(value, ".")
			running.Major, running.Minor = number(major), number(minor)
		}
	}
	return running
}

func number(s string) int {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}
