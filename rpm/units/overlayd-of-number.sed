# Makes overlayd@.service out of overlayd.service, for networks with another number than 0: `systemctl enable --now
# overlayd@1`. Docker's default bridge belongs to network 0, and docker waits for that daemon only.
s|^Description=.*|Description=Overlay network %i of this host, beside that of overlayd.service|
/^# docker takes its bridge's address/d
/^Before=docker.service$/d
s|^EnvironmentFile=.*|EnvironmentFile=-/etc/sysconfig/overlayd.%i|
s|^ExecStart=/usr/bin/overlayd run|& --network-number=%i|
s|^# Docker and others start from the files in here|# Others start from the files in here|
s|^RuntimeDirectory=overlayd$|&%i|
s|^StateDirectory=overlayd$|&%i|
