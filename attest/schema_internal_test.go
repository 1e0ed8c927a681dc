package attest

import (
	"encoding"
	"reflect"
	"slices"
	"strings"
)

// WireMembers returns the paths of all members that a bundle may have, in alphabetical order: names
// with a dot between an object's and its member's.
func WireMembers() []string {
	members := membersOf(reflect.TypeFor[wire](), "")
	slices.Sort(members)
	return members
}

func membersOf(t reflect.Type, path string) (members []string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return nil
	}
	for field := range t.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.Anonymous && name == "" {
			members = append(members, membersOf(field.Type, path)...)
			continue
		}
		members = append(members, path+name)
		members = append(members, membersOf(field.Type, path+name+".")...)
	}
	return members
}
