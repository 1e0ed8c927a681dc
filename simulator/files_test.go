package simulator

import (
	"slices"
	"testing"
)

// Who starts the simulator has tokens, also by sudo.
func TestTheUsersOfTheConfigurationsRule(t *testing.T) {
	for _, tt := range []struct {
		name string
		uid  int
		sudo string
		want []string
	}{
		{"an ordinary user", 64999, "", []string{"64999"}},
		{"root", 0, "", []string{"root"}},
		{"root, by sudo", 0, "64999", []string{"root", "64999"}},
		{"root, by sudo of root", 0, "0", []string{"root"}},
		{"an ordinary user, with the variable of an earlier sudo", 64999, "64998", []string{"64999"}},
	} {
		got := invokingUsers(tt.uid, func(name string) string {
			if name != "SUDO_UID" {
				return ""
			}
			return tt.sudo
		})
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}
