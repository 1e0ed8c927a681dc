// Package rulebook makes a policy of the configured rules, as far as the users and groups are known whom they name.
package rulebook
