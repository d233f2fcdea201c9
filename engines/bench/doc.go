// Package bench compares WebAssembly engines: the same modules on each, in the
// process that calls them and in one of their own, bare and metered.
//
// A [Program] is what is measured, a [Job] a program under one [Mode], and a
// [Runner] does jobs: an [Engine] in this process, or a [Process] that serves
// one in its own ([Serve]), where it can be killed if a guest does not end.
// [Suite.Run] does every job on every [Target] and makes a [Report], which says
// for each what was measured or why it could not be.
//
// How a figure comes about: the first call's answer is checked; calls go on
// until a fifth of the job's time is over, to warm up and to learn how many make
// a sample; then samples are taken until the time is over. What is reported is
// their median, the quartiles, and all of them. An answer that is wrong, before
// or after, is a [Failure], never a figure.
package bench
