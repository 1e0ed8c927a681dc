// Package policy decides which caller may have which token. It is pure: no kernel, no file, no
// clock. The same question always gets the same answer, but for rules with units and executables,
// for which a [Machine] is asked each time.
//
// # Invariants
//
//   - Default deny. The zero [Policy] and the zero [Decision] refuse, root and
//     the agent's own user included.
//   - One rule must allow a request as a whole: caller, identity, resource and
//     token type, whether the cache may be skipped, and the host at which the
//     agent uses the token. Parts of two rules never add up.
//   - A rule with several kinds of callers (users or groups, units, executables) names those who
//     match each kind. Executables only narrow a rule.
//   - A unit is compared by the id of its cgroup, which it has from the unit's start to its end,
//     and never by text. The id is asked for at each decision, for callers that match the rest of
//     the rule: one stat, about three microseconds for each unit.
//   - Over TCP, nobody is root by a rule without a unit, in a group, or an administrator.
//   - Everything is compared exactly, in the form that [ParseResource] or
//     [ParseHost] gives. There are no prefixes, patterns or case folding, because
//     each of them has been a vulnerability somewhere. "*" is understood in one
//     place only: as the single entry of a rule's resources, which then means any
//     resource. A host may be given by its domain, which is written with a dot
//     before it.
//   - A resource that is compared is the resource that is asked for upstream, but for
//     one trailing slash, which the caller's form keeps and the comparison leaves out:
//     what comes out of [ParseResource] cannot hold a second scope, a control
//     character or a suffix that would be trimmed once more later.
//   - To administer the agent (read its status) is a right of its own. It gives
//     no token.
//
// # Sources
//
// Microsoft identity platform, "Scopes and permissions", trailing slash and "/.default" (which
// forms of a resource mean the same); Microsoft Graph, resource type federatedIdentityCredential
// (the audiences by cloud).
package policy
