package accounts_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/keyagent/keyagent/internal/accounts"
)

func TestTheGroupsOfALocalUser(t *testing.T) {
	t.Parallel()
	const passwd = "root:x:0:0:root:/root:/bin/sh\nkeyagent:x:990:991::/:/usr/sbin/nologin\nshort:x:5:5\n"
	for _, tt := range []struct {
		name, user, group string
		groups            []uint32 // nil: the user is not known
	}{
		{"none but their own", "keyagent", "keyagent:x:991:\n", []uint32{}},
		{"a member of two", "keyagent", "tss:x:59:keyagent\naudio:x:29:eve\ndisk:x:6:eve,keyagent\n", []uint32{59, 6}},
		{"part of a member's name", "keyagent", "tss:x:59:keyagents,akeyagent\n", []uint32{}},
		{"a damaged group", "keyagent", "tss:x:many:keyagent\ntss:x:59\n", []uint32{}},
		{"nobody", "web", "tss:x:59:web\n", nil},
		{"a damaged entry", "short", "", nil},
		{"a number", "990", "", nil},
		{"an option", "-s", "", nil},
	} {
		f := files(t, passwd, tt.group)
		got, err := f.Account(tt.user)
		if tt.groups == nil {
			if !errors.Is(err, accounts.ErrUnknown) {
				t.Errorf("%s: got %+v, %v", tt.name, got, err)
			}
			continue
		}
		if err != nil || got.UID != 990 || got.GID != 991 || !slices.Equal(got.Groups, tt.groups) {
			t.Errorf("%s: got %+v, %v; want groups %v", tt.name, got, err, tt.groups)
		}
	}
	f := files(t, passwd, "tss:x:59:keyagent\n")
	if got := f.GroupNameOf(59) + f.GroupNameOf(60); got != "tss60" {
		t.Errorf("the names are %q", got)
	}
}
