package peer

import (
	"fmt"
	"os"
	"strings"
)

// allIDs is the only id map under which every id that the kernel reports is the id that it means:
// first id inside, first id outside, count.
const allIDs = "0 0 4294967295"

// CheckUIDMap returns an error if the agent runs in a user namespace in which callers' ids are
// changed or hidden. Callers of other users would then all look like uid 65534, and a rule for one
// of them would hold for all.
func CheckUIDMap() error {
	for _, name := range []string{"uid_map", "gid_map"} {
		text, err := os.ReadFile("/proc/self/" + name)
		if err != nil {
			return fmt.Errorf("checking that callers can be told apart: %w", err)
		}
		if err := checkIDMap(name, string(text)); err != nil {
			return err
		}
	}
	return nil
}

func checkIDMap(name, text string) error {
	fields := strings.Join(strings.Fields(text), " ")
	if fields == allIDs {
		return nil
	}
	return fmt.Errorf("callers cannot be told apart: /proc/self/%s is %q, not %q: "+
		"run the agent outside of a user namespace (in a systemd unit: PrivateUsers=no)", name, fields, allIDs)
}
