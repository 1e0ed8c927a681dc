package statedir

import (
	"fmt"
	"os"

	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/owned"
)

// CheckOwner refuses to work for another user than the owner of the state directory, root included:
// the agent would not accept the files that this user makes there.
func CheckOwner(dir string) error { return checkOwner(dir, advice.Anything) }

// CheckServer is [CheckOwner] for the agent itself.
func CheckServer(dir string) error { return checkOwner(dir, advice.Serve) }

func checkOwner(dir string, run advice.Verb) error {
	info, err := os.Stat(dir)
	if err != nil {
		return nil //nolint:nilerr // what opens it will say so, with more to say
	}
	uid, err := owned.Owner(info)
	if err != nil || owned.Ours(uid) {
		return nil //nolint:nilerr // the same
	}
	return advice.To(fmt.Errorf("the keys in %s belong to user %s, and this is uid %d", dir, accounts.NameOf(uid), os.Geteuid()),
		"this is for whoever administers the agent, as that user: sudo -u %s %s", accounts.SudoName(uid), advice.Run(run, ""))
}
